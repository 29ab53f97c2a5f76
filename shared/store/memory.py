"""The store in this process's memory: for tests of everything that stands on a store."""

from __future__ import annotations

import dataclasses
import queue
from collections import defaultdict
from collections.abc import Callable, Collection, Generator
from dataclasses import replace
from time import time

from shared.domain.expiry import sweep
from shared.domain.instance import BY_IDLE, RELEASED, Desired, Instance, Status, may_precede
from shared.domain.node import Claim, Node, Orphan, heartbeat_age
from shared.errors import RecordUnreadable
from shared.store import KEEP_ENDED_S, Beat, Change, Once, name_taken
from shared.store.history import RUNS_KEPT
from shared.store.memory_history import MemoryHistory
from shared.store.memory_keys import MemoryApiKeys
from shared.store.memory_part import heard

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Instance)}


class MemoryStore(MemoryHistory, MemoryApiKeys):
    """Keeps the `Store` promise for the threads of one process.

    Args:
        clock: epoch seconds.
    """

    def __init__(self, clock: Callable[[], float] = time) -> None:
        super().__init__(clock)
        self._claims: dict[str, dict[str, Claim]] = defaultdict(dict)
        self._nodes: dict[str, Node] = {}
        self._epochs: dict[str, int] = defaultdict(int)
        self._holders: dict[str, str] = {}
        self._beats: dict[str, float] = {}
        self._idle_held: dict[str, float] = {}
        self._swept_at: float | None = None
        self._keep_s: dict[str, int] = {}  # once they have ended
        self._listeners: list[queue.SimpleQueue[str]] = []
        self._damaged: set[str] = set()

    def ping(self) -> None:
        """Return if the store answers."""

    def now(self) -> float:
        """Return the store's time in epoch seconds."""
        return self._clock()

    def announce(
        self, node: Node, holder: str, *, last_epoch: int = 0, beating: bool = True
    ) -> int:
        """Record `node` as its worker starts; return its new epoch."""
        with self._lock:
            other = self._holders.get(node.name, holder) != holder
            if other and not self._node(node.name).lost:
                raise name_taken(node.name)
            self._holders[node.name] = holder
            self._nodes[node.name] = node
            if beating:
                self._beats[node.name] = self._clock()
            self._epochs[node.name] = max(self._epochs[node.name], last_epoch) + 1
            return self._epochs[node.name]

    def heartbeat(self, name: str, epoch: int) -> Beat:
        """Say that the node lives; return what the store makes of it."""
        with self._lock:
            if name not in self._nodes:
                return Beat.UNKNOWN
            if self._epochs[name] < epoch:
                return Beat.BEHIND
            if self._epochs[name] != epoch:
                return Beat.SUPERSEDED
            self._beats[name] = self._clock()
            return Beat.OK

    def report_orphans(self, name: str, epoch: int, orphans: Collection[Orphan]) -> None:
        """Say which engines run on the node that neither it nor the store knows."""
        with self._lock:
            if self._epochs.get(name) == epoch:
                self._nodes[name] = replace(self._nodes[name], orphans=tuple(orphans))

    def retire(self, name: str, epoch: int) -> None:
        """Take the node out of placement at once, as its worker stops."""
        with self._lock:
            if self._epochs.get(name) == epoch:
                self._beats.pop(name, None)

    def nodes(self) -> list[Node]:
        """Return all nodes with their claims, lost ones too, by name."""
        with self._lock:
            return [self._node(name) for name in sorted(self._nodes)]

    def node(self, name: str) -> Node | None:
        """Return one node with its claims; None if there is none, or it cannot be read."""
        with self._lock:
            return self._node(name) if name in self._nodes else None

    def create(
        self, instance: Instance, max_instances: int, *, who: str = "", once: Once | None = None
    ) -> bool:
        """Record a new instance and claim its placement, in one step."""
        with self._lock:
            if once and self.created_once(once.name):
                return False
            claims = self._claims[instance.node]
            held = {uuid for claim in claims.values() for uuid in claim.gpus}
            if len(claims) >= max_instances or held & set(instance.gpus):
                return False
            name = instance.instance_id
            claims[name] = Claim(instance_id=name, gpus=instance.gpus)
            self._instances[name] = replace(instance, created_at=self._clock())
            if once:
                self._keep_once(once, name)
            placed = f"created, placed on {instance.node}"
            self._event(name, "user", who, Status.PENDING, placed)
            return True

    def get(self, instance_id: str) -> Instance | None:
        """Return the record, or None if there is none (any more)."""
        with self._lock:
            self._forget_old()
            return self._read(instance_id)

    def unreadable(self) -> list[RecordUnreadable]:
        """Return which records this process came across that cannot be read."""
        with self._lock:
            return [_unreadable(name) for name in sorted(self._damaged & self._instances.keys())]

    def damage(self, *instance_ids: str) -> None:
        """Have these records, and no others, be such as cannot be read: they are in Redis."""
        with self._lock:
            self._damaged = set(instance_ids)

    def instances(self, *, with_ended: bool = False) -> list[Instance]:
        """Return all that are not ended, oldest first; and those that ended in the last day."""
        with self._lock:
            self._forget_old()
            recent = self._clock() - KEEP_ENDED_S
            found = [
                i
                for i in self._instances.values()
                if i.instance_id not in self._damaged
                and (not i.ended or (with_ended and (i.ended_at or 0.0) > recent))
            ]
            return sorted(found, key=lambda record: record.created_at)

    def placed_on(self, node: str) -> list[Instance]:
        """Return the node's instances that its worker has to look after."""
        placed = [record for record in self.instances() if record.node == node]
        return [record for record in placed if not record.rests]

    def stop(self, instance_id: str, *, reason: str, by: str, who: str = "") -> Instance | None:
        """Set `desired` to stopped; return the record, or None if there is none."""
        with self._lock:
            record = self._read(instance_id)
            if record and not record.ended:
                taken_over = record.stop_by == BY_IDLE and by != BY_IDLE
                once_more = record.status is Status.STOP_FAILED and by != BY_IDLE
                if record.desired is Desired.RUNNING or taken_over or once_more:
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
            if change.status is not record.status:
                changed = self._instances[record.instance_id]
                self._forget_run(record.instance_id, changed.run - RUNS_KEPT)
                reason = changed.reason
                who = change.who or record.node
                self._event(record.instance_id, change.by, who, change.status, reason)
            else:
                self._publish(record.instance_id)
            return True

    def restore(self, kept: Instance, *, epoch: int, over: int | None, reason: str) -> bool:
        """Write a record whole, as its node has kept it, with its claim and its indexes."""
        with self._lock:
            held = self._instances.get(kept.instance_id)
            if self._epochs.get(kept.node) != epoch:
                return False
            if (None if held is None else (held.revision, held.node)) != (
                None if over is None else (over, kept.node)
            ):
                return False
            revision = max(kept.revision, held.revision if held else 0) + 1
            self._instances[kept.instance_id] = self._restored(kept, revision)
            claims = self._claims[kept.node]
            claims.pop(kept.instance_id, None)
            if kept.status not in RELEASED:
                others = [c for c in claims.values() if set(c.gpus) & set(kept.gpus)]
                reason += "".join(
                    f"; its GPUs are claimed by {claim.instance_id} too" for claim in others
                )
                claims[kept.instance_id] = Claim(instance_id=kept.instance_id, gpus=kept.gpus)
            self._event(kept.instance_id, "worker", kept.node, kept.status, reason)
            return True

    def touch(self, under_way: Collection[str], *, ended: Collection[str] = ()) -> None:
        """Say which instances are in use now, or were since this was said last."""
        with self._lock:
            for instance_id in {*under_way, *ended}:
                record = self._instances.get(instance_id)
                if record is None or record.status in RELEASED:
                    continue
                drains = record.desired is Desired.STOPPED
                if drains and not record.about_to_stop_as_idle and instance_id in under_way:
                    self._instances[instance_id] = replace(record, last_active=self._clock())
                if record.status is not Status.RUNNING:
                    continue
                if record.desired is Desired.RUNNING:
                    touched = replace(record, last_active=self._clock())
                    self._instances[instance_id] = touched
                elif record.stop_by == BY_IDLE:
                    self._instances[instance_id] = replace(
                        record,
                        desired=Desired.RUNNING,
                        stop_reason="",
                        stop_by="",
                        generation=record.generation + 1,
                        revision=record.revision + 1,
                        last_active=self._clock(),
                    )
                    self._event(instance_id, "user", "requests", "desired=running", "it is in use")

    def stop_idle(self, *, node: str | None = None, hold_s: float = 0.0) -> list[Instance]:
        """Set `desired` to stopped for all that are due, of `node` or of all; return those."""
        who = node or "beat"
        with self._lock:
            now = self._clock()
            self._swept_at = now if node is None else self._swept_at
            due = sweep(list(self._instances.values()), self._idle_held, now, hold_s)
            self._idle_held = {name: self._idle_held.get(name, now) for name in due.held}
            for name, why in due.hold.items():
                self._idle_held[name] = now
                self._event(name, BY_IDLE, who, Status.RUNNING, why)
            stopped = [name for name in due.stop if node in (None, self._instances[name].node)]
            for name in stopped:
                self._ask_to_stop(self._instances[name], due.stop[name], BY_IDLE, who)
            return [self._instances[name] for name in stopped if name not in self._damaged]

    def swept_ago_s(self) -> float | None:
        """Return how many seconds ago all of the fleet was swept by `stop_idle`; None if never."""
        with self._lock:
            return None if self._swept_at is None else max(0.0, self._clock() - self._swept_at)

    def changes(self, timeout_s: float) -> Generator[str | None]:
        """Yield the id of each instance whose record changes, from now on."""
        return heard(self._listeners, timeout_s)

    def _read(self, instance_id: str) -> Instance | None:
        record = self._instances.get(instance_id)
        if record and instance_id in self._damaged:
            raise _unreadable(instance_id)
        return record

    def _node(self, name: str) -> Node:
        return replace(
            self._nodes[name],
            heartbeat_age_s=heartbeat_age(self._beats.get(name), self._clock()),
            epoch=self._epochs[name],
            claims=tuple(claim for _, claim in sorted(self._claims[name].items())),
        )

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

    def _forget_old(self) -> None:
        for record in list(self._instances.values()):
            oldest = self._clock() - self._keep_s.get(record.instance_id, KEEP_ENDED_S)
            if record.status in RELEASED and (record.ended_at or 0.0) <= oldest:
                self._instances.pop(record.instance_id)
                self._forget_history(record.instance_id)

    def _publish(self, instance_id: str) -> None:
        for listener in self._listeners:
            listener.put(instance_id)


def _unreadable(instance_id: str) -> RecordUnreadable:
    return RecordUnreadable(instance_id, why="damaged", key=instance_id)


def _kept(value: object) -> object:
    # The caller's own list may change after this.
    return tuple(value) if isinstance(value, list) else value
