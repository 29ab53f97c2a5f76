"""The store in this process's memory: for tests of everything that stands on a store."""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Callable, Generator
from dataclasses import replace
from time import time

from shared.domain.instance import (
    RELEASED,
    Desired,
    Instance,
    Status,
    asks_once_more,
    may_precede,
    takes_over,
)
from shared.domain.node import Claim
from shared.domain.placement import Placement
from shared.store import KEEP_ENDED_S, Change, Once, Placed, Room, how_created
from shared.store.history import RUNS_KEPT
from shared.store.line import NEVER_RAN
from shared.store.memory_demand import MemoryDemands
from shared.store.memory_idle import MemoryIdle
from shared.store.memory_keys import MemoryApiKeys
from shared.store.memory_line import crowded
from shared.store.memory_part import heard

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Instance)}


class MemoryStore(MemoryIdle, MemoryDemands, MemoryApiKeys):
    """Keeps the `Store` promise for the threads of one process.

    Args:
        clock: epoch seconds.
    """

    def __init__(self, clock: Callable[[], float] = time) -> None:
        super().__init__(clock)
        self._keep_s: dict[str, int] = {}  # once they have ended
        self._listeners: list[queue.SimpleQueue[str]] = []

    def ping(self) -> None:
        """Return if the store answers."""

    def now(self) -> float:
        """Return the store's time in epoch seconds."""
        return self._clock()

    def create(
        self,
        instance: Instance,
        max_instances: int,
        *,
        who: str = "",
        once: Once | None = None,
        room: Room | None = None,
    ) -> bool:
        """Record a new instance and claim its placement, or have it wait, in one step."""
        with self._lock:
            if once and self._was_made(once):
                return False
            name = instance.instance_id
            if room and not self._made_room(name, room, who):
                return False
            if instance.node:
                place = Placement(node=instance.node, shares=instance.shares)
                if not self._has_room(name, place, max_instances, ()):
                    return False
                self._claim(instance.node, Claim(instance_id=name, shares=instance.shares))
            else:
                self._join_line(instance)
            self._instances[name] = replace(instance, created_at=self._clock())
            if once:
                self._keep_once(once, name)
            self._event(name, "user", who, Status.PENDING, how_created(instance, room))
            return True

    def instances(self, *, with_ended: bool = False) -> list[Instance]:
        """Return all that are not ended, oldest first; and those that ended in the last day."""
        with self._lock:
            self._forget_old()
            recent = self._clock() - KEEP_ENDED_S
            found = [
                i
                for i in self._readable()
                if not i.ended or (with_ended and (i.ended_at or 0.0) > recent)
            ]
            return sorted(found, key=lambda record: record.created_at)

    def placed_on(self, node: str) -> list[Instance]:
        """Return the node's instances that its worker has to look after."""
        placed = [record for record in self.instances() if record.node == node]
        return [record for record in placed if not record.rests]

    def placed_since(self, node: str, last: Placed | None) -> Placed:
        """Return them as `placed_on` does."""
        del last  # nothing is cheaper here
        return Placed(records=tuple(self.placed_on(node)), stamps={})

    def stop(self, instance_id: str, *, reason: str, by: str, who: str = "") -> Instance | None:
        """Set `desired` to stopped; return the record, or None if there is none."""
        with self._lock:
            record = self._read(instance_id)
            if record and not record.ended:
                taken_over = takes_over(by, record.stop_by)
                once_more = record.status is Status.STOP_FAILED and asks_once_more(by)
                if not record.node:
                    self._end_waiting(record, reason, by, who)
                elif record.desired is Desired.RUNNING or taken_over or once_more:
                    self._ask_to_stop(record, reason, by, who)
            return self._instances.get(instance_id)

    def apply(self, change: Change) -> bool:
        """Write `change` and what follows from it, in one step; return False if it did not hold."""
        with self._lock:
            record = self._instances.get(change.instance_id)
            if record is None or not self._holds(record, change):
                return False
            self._instances[record.instance_id] = self._changed(record, change)
            self._keep_s[record.instance_id] = change.keep_s
            if change.status in RELEASED:
                self._claims[record.node].pop(record.instance_id, None)
                self._freed_at[record.node] = self._clock()
                self._node_changed(record.node)
            if change.status is not record.status:
                changed = self._instances[record.instance_id]
                self._forget_run(record.instance_id, changed.run - RUNS_KEPT)
                reason = changed.reason
                who = change.who or record.node
                self._event(record.instance_id, change.by, who, change.status, reason)
            elif change.status is Status.STARTING:
                self._mark("instances", record.instance_id)
            else:
                self._publish(record.instance_id)
            return True

    def restore(self, kept: Instance, *, epoch: int, over: int | None, reason: str) -> bool:
        """Write a record whole, as its node has kept it, with its claim and its indexes."""
        with self._lock:
            held = self._instances.get(kept.instance_id)
            if self._epochs.get(kept.node) != epoch:
                return False
            if (None if held is None else held.revision) != over:
                return False
            if held and held.node not in ("", kept.node):
                return False
            if held and not held.node:
                self._leave_line(kept.instance_id)
            revision = max(kept.revision, held.revision if held else 0) + 1
            self._instances[kept.instance_id] = self._restored(kept, revision)
            claims = self._claims[kept.node]
            claims.pop(kept.instance_id, None)
            if kept.status not in RELEASED:
                mine = Claim(instance_id=kept.instance_id, shares=kept.shares)
                over_full = crowded(claims, mine)
                others = [claim for claim in claims.values() if over_full & claim.shares.keys()]
                reason += "".join(
                    f"; its GPUs are claimed by {claim.instance_id} too" for claim in others
                )
                claims[kept.instance_id] = mine
            self._node_changed(kept.node)
            self._event(kept.instance_id, "worker", kept.node, kept.status, reason)
            return True

    def changes(self, timeout_s: float) -> Generator[frozenset[str]]:
        """Yield the ids of instances whose records change, from now on."""
        return heard(self._listeners, timeout_s)

    def _holds(self, record: Instance, change: Change) -> bool:
        return (
            record.node == change.node
            and record.generation == change.generation
            and self._epochs.get(change.node) == change.epoch
            and (record.status is change.status or record.status in may_precede(change.status))
        )

    def _changed(self, record: Instance, change: Change) -> Instance:
        now = self._clock()
        fields = {
            name: _kept(_DEFAULTS[name] if value is None else value)
            for name, value in change.fields.items()
        }
        changed = replace(
            record,
            observed_generation=change.generation,
            status=change.status,
            **fields,  # type: ignore[arg-type]
        )
        if change.status is record.status:
            return changed
        changed = replace(changed, revision=record.revision + 1)
        if change.status is Status.STARTING:
            changed = replace(changed, started_at=now)
        if change.status is Status.RUNNING:
            changed = replace(changed, ready_at=now, last_active=now)
        if change.status in RELEASED:
            changed = replace(changed, ended_at=now, engine_key="")
        return changed

    def _restored(self, kept: Instance, revision: int) -> Instance:
        kept = replace(kept, revision=revision)
        if kept.status is Status.RUNNING:
            return replace(kept, last_active=self._clock())
        if kept.status in RELEASED:
            ended_at = self._clock() if kept.ended_at is None else kept.ended_at
            return replace(kept, engine_key="", ended_at=ended_at)
        return kept

    def _ask_to_stop(self, record: Instance, reason: str, by: str, who: str) -> None:
        self._instances[record.instance_id] = replace(
            record,
            desired=Desired.STOPPED,
            stop_reason=reason,
            stop_by=by,
            generation=record.generation + 1,
            revision=record.revision + 1,
        )
        self._event(record.instance_id, by, who, "desired=stopped", reason)

    def _end_waiting(self, record: Instance, reason: str, by: str, who: str) -> None:
        self._leave_line(record.instance_id)
        record = self._instances[record.instance_id]
        self._instances[record.instance_id] = replace(
            record,
            desired=Desired.STOPPED,
            stop_reason=reason,
            stop_by=by,
            status=Status.STOPPED,
            reason=reason,
            generation=record.generation + 1,
            observed_generation=record.generation + 1,
            revision=record.revision + 1,
            ended_at=self._clock(),
        )
        self._event(record.instance_id, by, who, "desired=stopped", reason)
        self._event(record.instance_id, by, who, Status.STOPPED, NEVER_RAN)

    def _forget_old(self) -> None:
        for record in list(self._instances.values()):
            oldest = self._clock() - self._keep_s.get(record.instance_id, KEEP_ENDED_S)
            if record.status in RELEASED and (record.ended_at or 0.0) <= oldest:
                self._instances.pop(record.instance_id)
                self._forget_history(record.instance_id)

    def _publish(self, instance_id: str) -> None:
        self._mark("instances", instance_id)
        for listener in self._listeners:
            listener.put(instance_id)


def _kept(value: object) -> object:
    # The caller's own list may change after this.
    return tuple(value) if isinstance(value, list) else value
