"""What is done to a fleet, and the seconds that each of its moments took."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

from tests.bench.errors import BenchError
from tests.bench.lifecycle.by_hand import by_hand
from tests.bench.lifecycle.fleet import MeasuredFleet
from tests.bench.lifecycle.watching import EVERY_S, Place, spawned_at, watch, when
from tests.bench.processes import cpu_seconds, in_session
from tests.integration.harness import processes_of

Seconds = dict[str, float]  # figure → seconds; of `idle`, shares of a core

TWENTY = 20
IDLE_S = 60.0
_CREATE_S = 120.0  # twenty stand-ins, two cores
_AFTER_S = 2.0  # that long answers are watched after a crash
_BAD_GATEWAY = 502
_PID = re.compile(r"^Pid:\t(\d+)$", re.MULTILINE)
_SETTLES_S = 10.0  # what starting twenty engines leaves to be done


def life(fleet: MeasuredFleet) -> Seconds:
    """Return what one life took: create, first token, delete; and the same command by hand."""
    patience = fleet.engines.start_s
    with ThreadPoolExecutor() as pool:
        used = _cpu_of_ours(fleet)
        posted_at = monotonic()
        instance_id = fleet.create()
        accepted_at = monotonic()
        relay, other = fleet.places(instance_id)
        when(lambda: fleet.launch(instance_id), patience, what="launch.json")
        launch = fleet.launch(instance_id) or {}
        engine = Place(launch["url"], launch["key"], relay.model)
        spawned = spawned_at(fleet.run_dir, instance_id, patience)
        # Before that only the engine is asked: our answers would cost its start CPU time.
        ready_at = when(engine.healthy, patience, what="the engine's health")
        used = _cpu_of_ours(fleet) - used
        token = watch(pool, relay.first_token, patience, what="a first token")
        routed = watch(pool, other.healthy, patience, what="routed in the other web process")
        token_at = token.result()
        everywhere_at = max(token_at, routed.result())  # none routes before the record is `running`
    delete_s = _deleted(fleet, instance_id)
    hand = by_hand(launch, relay.model, fleet.local.folder, patience)
    return {
        "spawn": spawned - accepted_at,
        "posted_to_spawn": spawned - posted_at,
        "routed": everywhere_at - ready_at,
        # Around the engine's own start, which of real vLLM varies by seconds.
        "first_token_added": (spawned - posted_at) + (token_at - ready_at) - hand.token,
        "start": ready_at - spawned,
        "start_by_hand": hand.start,
        "start_cpu": used,
        "first_token": token_at - posted_at,
        "first_token_by_hand": hand.start + hand.token,
        "delete": delete_s,
        "term_by_hand": hand.term,
        "delete_added": delete_s - hand.term,
    }


def crash(fleet: MeasuredFleet) -> Seconds:
    """Return how fast callers and the record hear that an engine was killed."""
    instance_id = _created(fleet)
    place = fleet.places(instance_id)[0]
    pid = int(fleet.local.record(instance_id)["pid"])
    with ThreadPoolExecutor() as pool, _answers(place, pool) as answers:
        when(lambda: answers, fleet.engines.start_s, what="an answer before the crash")
        killed_at = monotonic()
        os.kill(pid, signal.SIGKILL)
        noted = watch(
            pool,
            lambda: fleet.status(instance_id) != "running",
            fleet.engines.start_s,
            what="the crash in the record",
        )
        noted_at = noted.result()
        status = fleet.status(instance_id)
        Event().wait(_AFTER_S)
    after = [(begun, ended, code) for begun, ended, code in answers if ended > killed_at]
    refused = [ended for _, ended, code in after if code >= _BAD_GATEWAY]
    _deleted(fleet, instance_id)
    if status not in ("backoff", "starting"):
        raise BenchError(f"a killed engine's instance became {status}, not backoff")
    if not refused:
        raise BenchError("no request was refused after the engine was killed")
    return {
        "refused": min(refused) - killed_at,
        "slowest_answer": max(ended - max(begun, killed_at) for begun, ended, _ in after),
        "backoff": noted_at - killed_at,
    }


def adoption(fleet: MeasuredFleet) -> Iterator[Seconds]:
    """Yield, as often as asked, how long after a kill of the worker twenty are adopted."""
    with _twenty(fleet) as ids:
        while True:
            yield _adopted(fleet, ids)


def idle(fleet: MeasuredFleet) -> Seconds:
    """Return which share of a core our processes use for twenty instances that nobody uses."""
    with _twenty(fleet):
        Event().wait(_SETTLES_S)
        ours = _our_processes(fleet)
        if len(ours["shims"]) != TWENTY:
            raise BenchError(f"{len(ours['shims'])} shims, not {TWENTY}")
        before, began = {name: cpu_seconds(pids) for name, pids in ours.items()}, monotonic()
        Event().wait(IDLE_S)
        took = monotonic() - began
        shares = {name: (cpu_seconds(pids) - before[name]) / took for name, pids in ours.items()}
    return {"idle": sum(shares.values()), **{f"idle_{name}": s for name, s in shares.items()}}


def _cpu_of_ours(fleet: MeasuredFleet) -> float:
    return sum(cpu_seconds(pids) for pids in _our_processes(fleet).values())


def _adopted(fleet: MeasuredFleet, ids: list[str]) -> Seconds:
    processes = fleet.local.processes
    before = {name: _identity(fleet, name) for name in ids}
    engines = {int(fleet.local.record(name)["pid"]) for name in ids}
    processes[-1].end(signal.SIGKILL)
    with ThreadPoolExecutor() as pool:
        count, began = len(processes), monotonic()
        starting = pool.submit(fleet.start_worker)
        when(lambda: len(processes) > count, _CREATE_S, what="a new worker")
        worker = processes[-1].popen.pid
        adopted_at = when(
            lambda: engines <= _watched_by(worker), _CREATE_S, what="every engine watched again"
        )
        starting.result()
    after = {name: _identity(fleet, name) for name in ids}
    if after != before:
        raise BenchError(f"not the same engines after the worker's restart: {before} {after}")
    return {"adopted": adopted_at - began}


def _watched_by(worker: int) -> set[int]:
    """Return the pids of whose end a worker will hear: it holds a pidfd of each, see proc(5)."""
    watched: set[int] = set()
    for info in Path(f"/proc/{worker}/fdinfo").iterdir():
        with suppress(OSError):
            found = _PID.search(info.read_text())
            watched.update({int(found[1])} if found else ())
    return watched


def _identity(fleet: MeasuredFleet, instance_id: str) -> tuple[object, ...]:
    record = fleet.local.record(instance_id)
    return record["status"], record["pid"], record["restarts"], record["started_at"]


@contextmanager
def _twenty(fleet: MeasuredFleet) -> Iterator[list[str]]:
    ids = [fleet.create() for _ in range(TWENTY)]
    for name in ids:
        when(lambda name=name: fleet.status(name) == "running", _CREATE_S, what=f"{name} runs")  # type: ignore[misc]
    try:
        yield ids
    finally:
        for name in ids:
            fleet.local.call("DELETE", f"/instances/{name}")
        for name in ids:
            fleet.local.delete(name)


def _our_processes(fleet: MeasuredFleet) -> dict[str, list[int]]:
    """Return what is ours, by name: all that works for this fleet, but not the engines."""
    ours: dict[str, list[int]] = {}
    for process in fleet.local.processes:
        name = process.log.stem.rpartition("-")[0]
        if process.popen.poll() is None:
            ours[name] = ours.get(name, []) + in_session(process.popen.pid)
    shims = [
        pid
        for pid in processes_of(fleet.local.folder)
        if b"workers.shim" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return {**ours, "redis": [fleet.local.redis_pid()], "shims": shims}


def _created(fleet: MeasuredFleet) -> str:
    instance_id = fleet.create()
    when(lambda: fleet.status(instance_id) == "running", fleet.engines.start_s, what="it to run")
    return instance_id


def _deleted(fleet: MeasuredFleet, instance_id: str) -> float:
    """Delete; return after how many seconds it was verified gone."""
    began = monotonic()
    answer: Any = fleet.local.delete(instance_id)
    if answer.get("status") != "deleted":
        raise BenchError(f"DELETE: {answer}")
    return monotonic() - began


@contextmanager
def _answers(place: Place, pool: ThreadPoolExecutor) -> Iterator[list[tuple[float, float, int]]]:
    """Ask all the while; yield the growing list of when asked, when answered, and the status."""
    answers: list[tuple[float, float, int]] = []
    over = Event()

    def ask() -> None:
        while not over.wait(EVERY_S):
            begun = monotonic()
            status = place.status()
            answers.append((begun, monotonic(), status))

    asking = pool.submit(ask)
    try:
        yield answers
    finally:
        over.set()
        asking.result()
