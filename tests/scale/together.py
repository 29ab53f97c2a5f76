"""Everything at once: nodes, churn, lists, sweeps, tables, and what Redis and the web tier need."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from threading import Event
from time import monotonic, thread_time
from typing import Any

from shared.embedded_redis import server_program
from shared.settings import ROOT
from shared.store.redis import RedisStore, connect
from tests.bench.processes import Program, cpu_seconds, memory_mib
from tests.demo.fleet import free_ports
from tests.demo.waiting import until
from tests.scale.callers import Callers
from tests.scale.fleet import Fleet, fill
from tests.scale.meter import Measured, Times
from tests.scale.nodes import run_nodes
from tests.scale.part import Part
from tests.scale.watcher import run_watcher

WARM_S = 10.0
WEB_PROCESSES = 2
NODE_PROCESSES = 8  # one alone waits for answers most of its time, and falls behind
_BOOTED = b"web.models.catalogue_file: "  # said by each as it begins to serve
_WINDOW_S = 5.0
_WORK, _WORKS = 200_000, 20
_END_S = 60.0
_BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Together:
    """What was seen in so many seconds."""

    seconds: float
    times: dict[str, Times]
    windows: tuple[float, ...]  # of each few seconds: share of a core of Redis and the web tier
    slowed: float  # how many times the CPU time of a piece of work is what it was before all this
    redis_cpu: float  # share of one core
    redis_commands: float  # a second, those within scripts too
    redis_mib: float
    redis_connections: int
    web_cpu: float  # share of one core, all processes of the web tier
    web_mib: float
    watcher_cpu: (
        float  # of the process that watches tables and sweeps, far more often than they are
    )
    callers_cpu: float  # of the process that calls REST
    nodes_cpu: float  # of the processes that simulate the nodes, Celery's messages too
    churn: float  # to be created a second
    churned: float  # created a second
    refused: int  # calls that were not answered as they should be
    late_s: float  # the most that a node's heartbeat or look began after its time

    @property
    def control_cpu(self) -> float:
        """Share of one core that the whole control plane needs; beat's sweeps are in the watcher's.

        Beat itself only sends a message every few seconds.
        """
        return self.redis_cpu + self.web_cpu

    @property
    def spread(self) -> str:
        """The least, the median and the most of the windows."""
        return f"{min(self.windows):.2f}, {median(self.windows):.2f}, {max(self.windows):.2f}"


def together(folder: Path, fleet: Fleet, *, seconds: float, churn: float) -> Together:
    """Run it in an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    alone_s = min(_work_s() for _ in range(_WORKS))
    cpus = range(os.cpu_count() or 1)
    socket = folder / "redis.sock"
    words: list[str | Path] = [
        server_program(),
        ROOT / "configs/redis.conf",
        "--unixsocket",
        socket,
    ]
    redis = Program("redis", words, cpus=cpus, folder=folder)
    web = None
    try:
        redis.await_ready(socket.exists)
        url = f"unix://{socket}"
        with closing(connect(url)) as client:
            epochs = fill(RedisStore(client), fleet)
            with _parts(url, fleet, epochs) as parts:
                port = free_ports(1, first=20_000 + os.getpid() % 5_000)
                env = {
                    "APP_HOST": "127.0.0.1",
                    "APP_PORT": str(port),
                    "WEB_PROCESSES": str(WEB_PROCESSES),
                    "REDIS_URL": url,
                    "RUN_DIR": str(folder / "run"),
                    "PATH": f"{_BIN}:{os.environ['PATH']}",
                }
                config = str(ROOT / "configs/gunicorn.conf.py")
                command = ["gunicorn", "--config", config, "web.wsgi:app"]
                web = Program("web", command, cpus=cpus, folder=folder, env=env, cwd=ROOT)
                # All of them: callers that come earlier stay with the first for good.
                until(lambda: web.log.read_bytes().count(_BOOTED) == WEB_PROCESSES, 60.0)
                callers = Callers(port, churn, fleet.names[0])
                programs = Programs(client, redis, web)
                return _watched(programs, callers, parts, seconds, alone_s)
    finally:
        if web is not None:
            web.end()
        redis.end()


@dataclass(slots=True)
class _Parts:
    over: Any  # multiprocessing's Event
    warm: Any
    ends: list[Connection]
    processes: list[Any]

    def measured(self) -> list[tuple[Measured, float]]:
        """End all parts and return what they measured."""
        self.over.set()
        assert all(end.poll(_END_S) for end in self.ends), "a part of the simulation has died"
        return [end.recv() for end in self.ends]


@contextmanager
def _parts(url: str, fleet: Fleet, epochs: dict[str, int]) -> Iterator[_Parts]:
    spawn = multiprocessing.get_context("spawn")
    parts = _Parts(spawn.Event(), spawn.Event(), [], [])

    def begin(run: Callable[..., None], *args: object) -> None:
        mine, its = spawn.Pipe(duplex=False)
        part = Part(parts.over, parts.warm, its)
        process = spawn.Process(target=run, args=(*args, part), daemon=True)
        process.start()
        its.close()
        parts.ends.append(mine)
        parts.processes.append(process)

    try:
        for first in range(NODE_PROCESSES):
            begin(run_nodes, url, fleet, fleet.names[first::NODE_PROCESSES], epochs)
        begin(run_watcher, url, fleet)
        yield parts
    finally:
        parts.over.set()
        for process in parts.processes:
            process.join(_END_S)
            process.kill()


@dataclass(frozen=True, slots=True)
class Programs:
    """What is watched."""

    client: Any
    redis: Program
    web: Program

    def cpu_s(self) -> tuple[float, float]:
        """Return what Redis and the web tier have used so far."""
        return cpu_seconds(self.redis.pids()), cpu_seconds(self.web.pids())


def _watched(
    programs: Programs, callers: Callers, parts: _Parts, seconds: float, alone_s: float
) -> Together:
    client = programs.client
    callers.start()
    try:
        Event().wait(WARM_S)
        parts.warm.set()
        callers.forget()
        begun, told = monotonic(), client.info("all")
        used = programs.cpu_s()
        windows, works = [], []
        while monotonic() < begun + seconds:
            windows.append(_window(programs, min(_WINDOW_S, seconds)))
            works.append(_work_s())
        took, then = monotonic() - begun, client.info("all")
        now = programs.cpu_s()
        called, statuses = callers.meter.measured(), dict(callers.statuses)
        web_mib = memory_mib(programs.web.pids())
    finally:
        callers.stop()
    *nodes, (watcher, _) = parts.measured()
    taken: dict[str, list[float]] = defaultdict(list)
    for measured in (called, watcher, *(measured for measured, _ in nodes)):
        for name, some in measured.taken.items():
            taken[name] += some
    made = statuses.get("create: POST /instances: 202", 0)
    return Together(
        seconds=took,
        times={name: Times.of(some) for name, some in taken.items() if some},
        windows=tuple(windows),
        slowed=median(works) / alone_s,
        redis_cpu=(now[0] - used[0]) / took,
        redis_commands=(_calls(then) - _calls(told)) / took,
        redis_mib=then["used_memory"] / 2**20,
        redis_connections=then["connected_clients"],
        web_cpu=(now[1] - used[1]) / took,
        web_mib=web_mib,
        watcher_cpu=watcher.cpu_s / took,
        callers_cpu=called.cpu_s / took,
        nodes_cpu=sum(measured.cpu_s for measured, _ in nodes) / took,
        churn=callers.churn,
        churned=made / took,
        refused=sum(count for said, count in statuses.items() if int(said[-3:]) >= 300),
        late_s=max(late_s for _, late_s in nodes),
    )


def _window(programs: Programs, seconds: float) -> float:
    """Return what share of a core the control plane uses in the next seconds."""
    begun, used = monotonic(), sum(programs.cpu_s())
    Event().wait(seconds)
    return (sum(programs.cpu_s()) - used) / (monotonic() - begun)


def _work_s() -> float:
    """Return the CPU time that a small fixed piece of work takes: more where others are busy, too.

    Two threads of one core share it, and so do the neighbours of a virtual machine; time is what is
    accounted for, not work.
    """
    begun = thread_time()
    sum(number * number % 7 for number in range(_WORK))
    return thread_time() - begun


def _calls(told: Any) -> int:
    return sum(one["calls"] for name, one in told.items() if name.startswith("cmdstat_"))
