"""What each operation costs on its own: nothing else is under way.

Besides time, the commands that Redis runs for it are counted, those within scripts, too, and the
bytes that it sends: they do not depend on how busy the machine is, and tell of any scan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count, cycle
from time import perf_counter, thread_time
from typing import Any

from shared.domain.instance import Status
from shared.domain.placement import choose_placement
from shared.domain.wanted import Wanted
from shared.store import Placed, Query, Store
from shared.store.keys import Keys
from shared.store.redis import RedisStore, connect
from tests.scale.fleet import (
    GPUS,
    SHARE,
    SLOTS,
    Fleet,
    change,
    fill,
    instance,
    model_name,
    report,
)
from tests.scale.meter import Times
from web.tables.node_table import NodeTable
from web.tables.routing import RoutingTable

PAGE = 50  # instances; of the smallest fleet there are so many of each model
IN_USE = 100
REPEATS = 200
CHANGED = 10
_ONCE_REPEATS = 5

BEAT, LOOK, WHOLE_LOOK, SWEEP = (
    "heartbeat with a report",
    "node: look at its records",
    "node: look at its records, all read",
    "node: sweep of its idle instances",
)
"""What each node does all the time."""

_OF_A_MODEL = Query(model=model_name(0), status=Status.RUNNING)

Operation = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one operation."""

    times: Times
    commands: float  # that Redis ran
    sent: float  # bytes, by Redis
    redis_us: float  # of Redis's CPU time
    own_us: float  # of the CPU time of who asks

    def without(self, other: Cost) -> Cost:
        """Return what is left without what looking at it costs."""
        return Cost(
            self.times,
            self.commands - other.commands,
            self.sent - other.sent,
            self.redis_us - other.redis_us,
            self.own_us,
        )


def alone(url: str, fleet: Fleet, *, repeats: int = REPEATS) -> dict[str, Cost]:
    """Fill an empty Redis and return what each operation costs there, by its name."""
    with closing(connect(url)) as client, closing(connect(url)) as watching:
        watcher: Any = watching
        store = RedisStore(client)
        epochs = fill(store, fleet)
        operations = Operations(client, store, fleet, epochs)
        costs = {}
        idle = _cost(watcher, _nothing, _nothing, repeats)
        for name, prepare, operation, times in operations.all(repeats):
            costs[name] = _cost(watcher, prepare, operation, times).without(idle)
        return costs


class Operations:
    """All of them, each for one node or instance after the other."""

    def __init__(self, client: Any, store: Store, fleet: Fleet, epochs: dict[str, int]) -> None:
        self._client = client
        self._store = store
        self._fleet = fleet
        self._epochs = epochs
        self._names = cycle(fleet.names)
        self._numbers = count()
        self._created = count()
        self._stay = [one for name in fleet.names for one in fleet.stays(name)]
        self._staying = cycle(self._stay)
        self._routing = RoutingTable(store)
        self._nodes = NodeTable(store)
        self._at, self._seen = "", Placed(records=(), stamps={})
        self._made: list[str] = []
        self._due: list[str] = []

    def all(self, repeats: int) -> Iterator[tuple[str, Operation, Operation, int]]:
        """Return name, what comes before each call, the call, and how often to call it."""
        self._routing.refresh()
        self._nodes.refresh()
        store = self._store
        for name, prepare, operation in (
            (BEAT, _nothing, self._beat),
            (LOOK, self._look_whole, self._look),
            (WHOLE_LOOK, _nothing, self._look_whole),
            (
                SWEEP,
                _nothing,
                lambda: store.stop_idle(node=next(self._names)),
            ),
            ("create", _nothing, self._create),
            ("worker: starting", _nothing, self._start),
            ("worker: running", _nothing, self._run),
            ("stop", _nothing, self._stop),
            ("worker: stopped", _nothing, self._stopped),
            (f"use of {IN_USE} instances reported", _nothing, self._touch),
            ("idle sweep, nothing due", _nothing, store.stop_idle),
            (f"idle sweep, {CHANGED} due", self._make_due, store.stop_idle),
            ("one record", _nothing, lambda: store.get(next(self._staying).instance_id)),
            (f"list: {PAGE} of all", _nothing, lambda: store.page(Query(), limit=PAGE)),
            (f"list: {PAGE} behind any", _nothing, self._page_behind),
            ("list: of one node", _nothing, lambda: store.page(Query(node=next(self._names)))),
            (
                f"list: {PAGE} running ones of a model",
                _nothing,
                lambda: store.page(_OF_A_MODEL, limit=PAGE),
            ),
            ("routing: refresh, nothing changed", _nothing, self._routing.refresh),
            (f"routing: refresh, {CHANGED} changed", self._change, self._routing.refresh),
            ("routing: one change heard", _nothing, self._hear),
        ):
            yield name, prepare, operation, repeats
        for name, prepare, operation in (
            ("node table: refresh, nothing changed", _nothing, self._nodes.refresh),
            (f"node table: refresh, {CHANGED} changed", self._beats, self._nodes.refresh),
            ("choose a place (no I/O)", _nothing, self._choose),
        ):
            for one in self._fleet.names:  # so that none is lost
                store.heartbeat(one, self._epochs[one])
            self._nodes.refresh()
            yield name, prepare, operation, repeats
        yield "once: routing table read whole", _nothing, self._read_whole, _ONCE_REPEATS

    def _beat(self) -> object:
        name = next(self._names)
        told = report(self._fleet, name, next(self._numbers))
        return self._store.heartbeat(name, self._epochs[name], told)

    def _look_whole(self) -> None:
        self._at = next(self._names)
        self._seen = self._store.placed_since(self._at, None)

    def _look(self) -> object:
        return self._store.placed_since(self._at, self._seen)

    def _beats(self) -> None:
        for _ in range(CHANGED):
            self._beat()

    def _create(self) -> None:
        number = next(self._created)
        name, gpu = self._fleet.names[number % self._fleet.nodes], number // self._fleet.nodes + 2
        made = instance(f"made-{number}", model_name(number), name, gpu % GPUS)
        if self._store.create(made, SLOTS):
            self._made.append(made.instance_id)

    def _start(self) -> None:
        self._move(Status.STARTING)

    def _run(self) -> None:
        self._move(Status.RUNNING)

    def _stop(self) -> None:
        if self._made:
            self._store.stop(self._made[0], reason="enough", by="user")
            self._made.append(self._made.pop(0))

    def _stopped(self) -> None:
        self._move(Status.STOPPING, stay=False)

    def _move(self, status: Status, *, stay: bool = True) -> None:
        if not self._made:
            return
        name = self._made.pop(0)
        record = self._store.get(name)
        if record is not None:
            self._store.apply(change(record, self._epochs[record.node], status))
        if stay:
            self._made.append(name)
        elif record is not None:
            self._store.apply(change(record, self._epochs[record.node], Status.STOPPED))

    def _touch(self) -> None:
        self._store.touch({next(self._staying).instance_id for _ in range(IN_USE)})

    def _make_due(self) -> None:
        self._store.touch(self._due)  # those of the last time go on
        self._due = [next(self._staying).instance_id for _ in range(CHANGED)]
        self._client.zadd(Keys().expiry, dict.fromkeys(self._due, 1.0), xx=True)

    def _page_behind(self) -> None:
        after = self._stay[(next(self._numbers) * 7919) % (len(self._stay) // 2)].instance_id
        self._store.page(Query(), after=after, limit=PAGE)

    def _change(self) -> None:
        for _ in range(CHANGED):
            name = next(self._staying).instance_id
            self._store.note(name, by="worker", who="scale", reason="a note")

    def _hear(self) -> None:
        self._routing.hear([next(self._staying).instance_id])

    def _choose(self) -> None:
        choose_placement(self._nodes.nodes(), Wanted(gpus=1, share=SHARE), model_name="org/model-1")

    def _read_whole(self) -> None:
        RoutingTable(self._store).refresh()


def _nothing() -> None:
    pass


def _cost(watcher: Any, prepare: Operation, operation: Operation, repeats: int) -> Cost:
    taken, commands, sent, cpu, own = [], 0.0, 0.0, 0.0, 0.0
    for _ in range(repeats):
        prepare()
        before = _redis_did(watcher)
        begun, used = perf_counter(), thread_time()
        operation()
        taken.append(perf_counter() - begun)
        own += thread_time() - used
        after = _redis_did(watcher)
        commands += after[0] - before[0]
        sent += after[1] - before[1]
        cpu += after[2] - before[2]
    return Cost(
        Times.of(taken),
        commands / repeats,
        sent / repeats,
        cpu / repeats * 1e6,
        own / repeats * 1e6,
    )


def _redis_did(watcher: Any) -> tuple[float, float, float]:
    """Return how many commands Redis has run, the bytes it has sent, its seconds of CPU time."""
    told = watcher.info("all")
    calls = sum(one["calls"] for name, one in told.items() if name.startswith("cmdstat_"))
    cpu = told["used_cpu_user_main_thread"] + told["used_cpu_sys_main_thread"]
    return calls, told["total_net_output_bytes"], cpu
