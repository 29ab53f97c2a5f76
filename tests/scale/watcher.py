"""What goes on in the background of a web process, where it can be watched: tables, reports."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from itertools import islice
from time import monotonic

from shared.store.redis import RedisStore, connect
from tests.scale.fleet import Fleet
from tests.scale.meter import Meter
from tests.scale.part import Part
from web.tables.following_store import FollowingStore, Table
from web.tables.node_table import NodeTable
from web.tables.routing import RoutingTable

_REFRESH_S = 2.5  # twice as often as a web process, for its figures
_SWEEP_S = 2.5  # four times as often as beat
_TOUCH_S = 0.5  # each of two web processes says once a second what it uses
_IN_USE = 10  # of so many instances, one is in use at any time


class Timed:
    """A table, and how long it takes to keep it; what it hears, it may gather for a while."""

    def __init__(self, name: str, table: Table, meter: Meter) -> None:
        self._name = name
        self._table = table
        self._meter = meter

    def hear(self, changed: Collection[str]) -> None:
        """Have the table hear it."""
        self._table.hear(changed)

    def refresh(self) -> None:
        """Have the table refreshed."""
        self._meter.time(f"{self._name}: refresh", self._table.refresh)

    def lose(self) -> str:
        """Hear that the store is away, which it must not be."""
        raise AssertionError("Redis did not answer")


def run_watcher(url: str, fleet: Fleet, part: Part) -> None:
    """Be a process like a web process, and like beat."""
    meter = Meter()
    with closing(connect(url)) as client:
        store = RedisStore(client)
        for name, table, changes in (
            ("routing table", RoutingTable(store), store.changes),
            ("node table", NodeTable(store), store.node_changes),
        ):
            timed = Timed(name, table, meter)
            FollowingStore(name, timed, changes, refresh_s=_REFRESH_S).start()
        names = (one.instance_id for name in fleet.names for one in fleet.stays(name))
        in_use = set(islice(names, 0, None, _IN_USE))
        part.warm.wait()
        meter.forget()
        touch_at = sweep_at = monotonic()
        while not part.over.wait(max(0.0, min(touch_at, sweep_at) - monotonic())):
            if monotonic() >= touch_at:
                touch_at += _TOUCH_S
                meter.time("use reported: one in ten instances", lambda: store.touch(in_use))
            if monotonic() >= sweep_at:
                sweep_at += _SWEEP_S
                meter.time("idle sweep of the fleet", lambda: store.stop_idle(hold_s=60.0))
        part.tell(meter.measured())
