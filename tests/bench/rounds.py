"""Start the targets, put every load on each of them in turn, round by round, and end them."""

from __future__ import annotations

import http.client
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.build import build
from tests.bench.disturbance import Disturbance, Watch
from tests.bench.errors import BenchError
from tests.bench.fleet import fleet
from tests.bench.measure import Bench, Live
from tests.bench.peers import FOLDER, Peer
from tests.bench.processes import Program
from tests.bench.results import Results
from tests.bench.scenarios import CHAT, SCALE_TARGETS, Scenario
from tests.bench.targets import Site, Target
from tests.demo.fleet import free_ports

_FIRST_PORT = 21000
_PORTS_EACH = 2  # vllm-router listens for Prometheus too
_GIVE_UP_AFTER = 2  # refusals of one target in one scenario: more would say no more
_PROBE = '{"model":"m","messages":[{"role":"user","content":"Hello?"}],"seed":1000000000}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpus:
    """Who runs where: what is measured has one core to itself, all else shares the other."""

    proxy: int
    load: int

    @classmethod
    def of_this_machine(cls) -> Cpus:
        """Return the first two that we may use.

        Raises:
            BenchError: there is only one.
        """
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) == 1:
            raise BenchError("one CPU: the benchmark needs two, one of them for the proxy alone")
        return cls(proxy=usable[0], load=usable[1])


def run(
    chosen: Sequence[Target],
    wanted: Sequence[Scenario],
    rounds: int,
    peers: Mapping[str, Peer],
    *,
    say: Callable[[str], None],
    profiles: Path | None = None,
) -> tuple[Results, Disturbance]:
    """Return what was measured, and what disturbed it.

    Raises:
        BenchError: something that is needed is missing or did not start.
    """
    cpus = Cpus.of_this_machine()
    programs = build(FOLDER / "bin")
    results = Results()
    os.sched_setaffinity(0, {cpus.load})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        port = free_ports(_PORTS_EACH * (len(chosen) + 1), first=_FIRST_PORT)
        engine_key = secrets.token_hex(16)
        engine = stack.enter_context(_engine(programs.engine, port, engine_key, cpus, folder))
        site = Site(
            folder=folder,
            port=port,
            engine_port=port,
            engine_key=engine_key,
            fleet=stack.enter_context(fleet(folder, cpus.load, port, engine_key)),
            peers=peers,
        )
        lives: list[Live] = []
        for target in chosen:
            say(f"starting {target.name}")
            site = replace(site, port=site.port + _PORTS_EACH)
            lives.append(stack.enter_context(_live(target, site, cpus)))
        bench = Bench(programs.loadgen, cpus.load, site.engine_port, profiles)
        watch = Watch([engine, *(live.program for live in lives if live.program)])
        for scenario in wanted:
            say(f"{scenario.name}: {scenario.says}")
            _interleave(bench, scenario, lives, rounds, results)
        return results, watch.disturbance()


def _interleave(
    bench: Bench, scenario: Scenario, lives: Sequence[Live], rounds: int, results: Results
) -> None:
    """Measure all targets in turn in each round, so that a drift of the machine hits all alike."""
    taking_part = [live for live in lives if _takes_part(live.target, scenario)]
    for round_ in range(min(rounds, scenario.most_rounds)):
        first = round_ % max(1, len(taking_part))  # nobody always follows the same one
        for live in taking_part[first:] + taking_part[:first]:
            name = live.target.name
            if len(results.refusals(scenario.name, name)) < _GIVE_UP_AFTER:
                results.add(bench.measure(live, scenario, round_))


def _takes_part(target: Target, scenario: Scenario) -> bool:
    if scenario.name in target.unable or scenario.name not in (target.only or {scenario.name}):
        return False
    return (target.name in SCALE_TARGETS) == (scenario.targets is not None)


@contextmanager
def _engine(program: Path, port: int, key: str, cpus: Cpus, folder: Path) -> Iterator[Program]:
    words: list[str | Path] = [program, "--port", str(port), "--key", key]
    engine = Program("engine", words, cpus=[cpus.load], folder=folder)
    try:
        engine.await_ready(lambda: _status("GET", port, "/health") == http.HTTPStatus.OK)
        yield engine
    finally:
        engine.end()


@contextmanager
def _live(target: Target, site: Site, cpus: Cpus) -> Iterator[Live]:
    """Run a target until its answers to completions are the engine's."""
    plan = target.plan(site)
    if not plan.command:
        yield Live(target=target, plan=plan, port=site.engine_port, program=None)
        return
    on = [cpus.proxy, cpus.load] if target.any_cpu else [cpus.proxy]
    program = Program(
        target.name, plan.command, cpus=on, folder=site.folder, env=plan.env, cwd=plan.cwd
    )
    try:
        path, bearer = f"{plan.prefix}{CHAT}", plan.bearer
        program.await_ready(lambda: _status("POST", site.port, path, bearer) == http.HTTPStatus.OK)
        yield Live(target=target, plan=plan, port=site.port, program=program)
    finally:
        program.end()


def _status(method: str, port: int, path: str, bearer: str = "") -> int:
    """Return the status of an answer; 0: there was none."""
    headers = {"Content-Type": "application/json"}
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, body=_PROBE if method == "POST" else None, headers=headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
