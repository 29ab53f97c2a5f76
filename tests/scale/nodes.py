"""Nodes, many in one process: what each worker asks of the store, as often as it does."""

from __future__ import annotations

import heapq
import queue
import resource
from contextlib import closing, suppress
from time import monotonic

from shared.domain.instance import Desired, Instance, Status
from shared.domain.node import HEARTBEAT_S
from shared.store import Placed
from shared.store.redis import RedisStore, connect
from tests.scale.celery_traffic import Workers
from tests.scale.fleet import Fleet, change, report
from tests.scale.meter import Meter
from tests.scale.part import Part
from tests.scale.raw_look import RawLook
from workers.supervisor import BUSY_PASS_S, QUIET_PASS_S

_LOADS_S = 0.2  # an engine, here
_LOG = ["INFO 11-23 20:00:00 [gpu_worker.py:123] a line as vLLM writes them at a start"] * 50
_REPORTS = 10  # of so many nodes, one has news at each heartbeat


class SimulatedNodes:
    """Beats, sweeps and looks for nodes, each at its time; looks at once where a bell rings."""

    def __init__(
        self, url: str, fleet: Fleet, names: list[str], epochs: dict[str, int], store: RedisStore
    ) -> None:
        self._fleet = fleet
        self._names = names
        self._epochs = epochs
        self._store = store
        self._rung: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._workers = Workers(url.removeprefix("unix://"), names, self._rung.put)
        self._raw = RawLook(url.removeprefix("unix://"))
        self._due: list[tuple[float, str, str]] = []
        self._started: dict[str, float] = {}  # instance id → when its engine was
        self._placed: dict[str, Placed] = {}  # what the nodes that had work had, by name
        self._busy: set[str] = set()  # names of nodes that are to be looked at again soon
        self._beats = 0
        self.meter = Meter()
        self.late_s = 0.0  # the most by which something was begun after its time

    def run(self, part: Part) -> None:
        """Go on until it is over; forget what was measured until it is warm."""
        self._workers.start()
        now, names = monotonic(), self._names
        for number, name in enumerate(names):  # spread over the interval, as they are in life
            share = number / len(names)
            heapq.heappush(self._due, (now + share * HEARTBEAT_S, "beat", name))
            heapq.heappush(self._due, (now + share * QUIET_PASS_S, "look", name))
        is_warm = False
        while not part.over.is_set():
            if not is_warm and part.warm.is_set():
                is_warm = True
                self.meter.forget()
                self.late_s = 0.0
            self._one()
        self._workers.stop()
        self._raw.close()

    def _one(self) -> None:
        wait_s = self._due[0][0] - monotonic()
        with suppress(queue.Empty):  # nobody rang
            self._look(self._rung.get(timeout=wait_s) if wait_s > 0 else self._rung.get_nowait())
        if self._due[0][0] > monotonic():
            return
        at, what, name = heapq.heappop(self._due)
        self.late_s = max(self.late_s, monotonic() - at)
        if what == "beat":
            self._beat(name)
            heapq.heappush(self._due, (at + HEARTBEAT_S, "beat", name))
        else:
            if what == "again":
                self._busy.discard(name)
            self._look(name)
            if what == "look":
                heapq.heappush(self._due, (at + QUIET_PASS_S, "look", name))

    def _beat(self, name: str) -> None:
        self._beats += 1
        has_news = self._beats % _REPORTS == 0
        news = report(self._fleet, name, self._beats) if has_news else None
        epoch = self._epochs[name]
        self.meter.time("heartbeat", lambda: self._store.heartbeat(name, epoch, news))
        self.meter.time("node: sweep of its idle instances", lambda: self._swept(name))

    def _swept(self, name: str) -> None:
        self._store.stop_idle(node=name, hold_s=60.0)

    def _look(self, name: str) -> None:
        if not self.meter.time("node: look at its records", lambda: self._raw.has_work(name)):
            return
        placed = self._placed[name] = self._store.placed_since(name, self._placed.get(name))
        again = [self._look_at(record) for record in placed.records]
        if any(again) and name not in self._busy:
            self._busy.add(name)
            heapq.heappush(self._due, (monotonic() + BUSY_PASS_S, "again", name))

    def _look_at(self, record: Instance) -> bool:
        """Take an instance one step further; return whether to look again soon."""
        name = record.instance_id
        if record.desired is Desired.STOPPED:
            if record.status is not Status.STOPPING:
                self._write(record, Status.STOPPING)
            self._write(record, Status.STOPPED)
            self._started.pop(name, None)
            self._store.line_length()  # there may be room for somebody now
            return False
        if record.status is Status.PENDING:
            self._write(record, Status.STARTING)
            self._started[name] = monotonic()
            return True
        if record.status is Status.STARTING:
            if monotonic() - self._started.get(name, 0.0) < _LOADS_S:
                self._write(record, Status.STARTING)  # how far it is
                return True
            self._write(record, Status.RUNNING)
            self.meter.time(
                "worker: 50 log lines kept", lambda: self._store.append_log(name, 1, _LOG)
            )
        return False

    def _write(self, record: Instance, status: Status) -> None:
        to = change(record, self._epochs[record.node], status)
        self.meter.time("worker: a status written", lambda: self._store.apply(to))


def run_nodes(url: str, fleet: Fleet, names: list[str], epochs: dict[str, int], part: Part) -> None:
    """Be the process of these nodes."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with closing(connect(url)) as client:
        nodes = SimulatedNodes(url, fleet, names, epochs, RedisStore(client))
        nodes.run(part)
        part.tell(nodes.meter.measured(), late_s=nodes.late_s)
