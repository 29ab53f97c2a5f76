"""Keeps as many replicas of each model as its load asks for: one web process at a time does.

It has a lease in the store; should it end, another one goes on within seconds, and begins anew to
watch how long a load lasts.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from time import monotonic

from shared.domain.catalogue import Entry
from shared.domain.drain import BY_DRAIN, why_it_leaves
from shared.domain.instance import Instance, Status
from shared.domain.scaling import (
    ScalingRule,
    Sight,
    Trend,
    after_failure,
    may_leave,
    may_start,
    scale,
    surplus,
)
from shared.errors import FleetError, NoCapacity, StoreUnavailable
from shared.store import Demand, Store
from web.models.replicas import Replicas, Seen
from web.models.waiting_room import WaitingRoom

_LOOK_S = 2.0
_LEASE_S = 6.0  # three looks
_LEASE = "scaler"

log = logging.getLogger(__name__)


class Scaler:
    """Starts and stops replicas of the catalogue's models.

    Args:
        room: knows the catalogue and its replicas.
        store: knows the demand, and whose turn it is.
        replicas: makes and ends them.
        rule: how long a load lasts before it counts.
        queued: returns how many requests wait in an instance's engine, as its node last said.
    """

    def __init__(
        self,
        room: WaitingRoom,
        store: Store,
        replicas: Replicas,
        rule: ScalingRule,
        queued: Callable[[str], int] = lambda _: 0,
    ) -> None:
        self._room = room
        self._store = store
        self._replicas = replicas
        self._rule = rule
        self._queued = queued
        self._holder = secrets.token_hex(8)
        self._trends: dict[str, Trend] = {}
        self._failed: dict[str, set[str]] = {}  # ids that were reckoned with already
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=self._run, name="scaler", daemon=True).start()

    def close(self) -> None:
        """Stop, at the next look."""
        self._closed.set()

    def look(self, now: float) -> None:
        """Start and stop what is to be, if it is this process's turn; `now` is monotonic.

        Raises:
            StoreUnavailable: try again.
        """
        entries = self._room.catalogue.entries
        if not entries and not self._replicas.models():
            return
        if not self._store.lease(_LEASE, self._holder, _LEASE_S):
            self._trends.clear()
            return
        if not self._room.fault:  # a process that could never read the file knows of no model
            self._replicas.release(entries)
        demand = self._store.demand()
        for entry in entries.values():
            try:
                self._scale(entry, demand.get(entry.name, Demand()), now)
            except StoreUnavailable:
                raise
            except FleetError as error:
                self._fails(entry, str(error), now)

    def _scale(self, entry: Entry, demand: Demand, now: float) -> None:
        seen = self._replicas.of(entry.name)
        self._replicas.retime(entry, seen)
        trend = self._trend(entry, seen, now)
        sight = Sight(
            requests=demand.running + demand.waiting,
            queued=sum(self._queued(one.instance_id) for one in seen.staying if one.serving),
            replicas=len(seen.staying),
            serving=sum(one.serving for one in seen.staying),
            leaving=sum(one.serving for one in seen.leaving),
        )
        count, self._trends[entry.name] = scale(entry, sight, trend, now, self._rule)
        free = may_leave(seen.staying, count)
        self._let_leave([one for one in seen.leaving if free or not one.serving])
        if count > sight.replicas and may_start(trend, now):
            self._start(entry, seen, count)
        for one in surplus(seen.staying, max(0, sight.replicas - count)):
            why = f"scaled down: {sight.requests} requests, for {count} replicas"
            self._replicas.stop(one, why, by="scale")
            log.info("model %s: %s is stopped, %s", entry.name, one.instance_id, why)

    def _start(self, entry: Entry, seen: Seen, count: int) -> None:
        try:
            for _ in range(count - len(seen.staying)):
                self._replicas.start(entry, at_most=count)
        except NoCapacity:
            self._let_leave(seen.leaving)  # there is no place for another
            raise

    def _let_leave(self, leaving: Iterable[Instance]) -> None:
        for one in leaving:
            self._replicas.stop(one, why_it_leaves(one.node), by=BY_DRAIN)

    def _trend(self, entry: Entry, seen: Seen, now: float) -> Trend:
        """Return the trend so far, with what has failed since."""
        trend = self._trends.get(entry.name, Trend())
        failed = {one.instance_id for one in seen.over if one.status is Status.FAILED}
        news = failed - self._failed.get(entry.name, set())
        self._failed[entry.name] = failed
        if news:
            return after_failure(trend, now, self._rule)
        return replace(trend, failures=0) if any(one.serving for one in seen.staying) else trend

    def _fails(self, entry: Entry, why: str, now: float) -> None:
        trend = self._trends.get(entry.name, Trend())
        log.warning("model %s: no replica started: %s", entry.name, why)
        self._trends[entry.name] = after_failure(trend, now, self._rule)

    def _run(self) -> None:
        while not self._closed.wait(_LOOK_S):
            try:
                self.look(monotonic())
            except StoreUnavailable as error:
                log.debug("not scaled: %s", error)
            except Exception:  # one look that fails must not be the last
                log.exception("not scaled; trying again")
