"""The line of instances that wait for a place, in this process's memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from shared.domain.eviction import may_be_evicted
from shared.domain.expiry import due_at
from shared.domain.instance import BY_EVICT, Desired, Instance, Status
from shared.domain.node import Claim
from shared.domain.placement import Placement
from shared.domain.wanted import WHOLE
from shared.store.line import MOST_PRIORITY, Room
from shared.store.memory_nodes import MemoryNodes


class MemoryLine(MemoryNodes):
    """Keeps the `Line` promise for the threads of one process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._line: dict[str, tuple[int, int]] = {}  # id → (-priority, who was how many)
        self._joined = 0

    def waiting(self, limit: int) -> list[Instance]:
        """Return the first `limit` instances of the line, in line."""
        with self._lock:
            readable = {one.instance_id: one for one in self._readable()}
            return [readable[name] for name in self._in_line() if name in readable][:limit]

    def line_length(self) -> int:
        """Return how many wait in line."""
        with self._lock:
            return len(self._line)

    def position(self, instance_id: str) -> int | None:
        """Return how many an instance is in the line, from 1; None if it does not wait."""
        with self._lock:
            return self._in_line().index(instance_id) + 1 if instance_id in self._line else None

    def ahead_of_new(self, priority: int) -> int:
        """Return how many wait that come before a new instance of that priority."""
        with self._lock:
            return sum(-lower >= priority for lower, _ in self._line.values())

    def place(
        self, instance_id: str, placement: Placement, max_instances: int, *, who: str
    ) -> bool:
        """Give a waiting instance its place, and claim that, in one step."""
        with self._lock:
            record, node = self._instances.get(instance_id), placement.node
            if record is None or not _waits(record):
                return False
            if not self._has_room(instance_id, placement, max_instances, ()):
                return False
            self._leave_line(instance_id)
            self._claim(node, Claim(instance_id=instance_id, shares=placement.shares))
            record = self._instances[instance_id]
            self._instances[instance_id] = replace(
                record,
                node=node,
                gpus=placement.gpus,
                reason="",
                revision=record.revision + 1,
            )
            waited = f"{self._clock() - record.created_at:.1f}"
            placed = f"placed on {node} after {waited} s in line"
            self._event(instance_id, "line", who, Status.PENDING, placed)
            return True

    def make_room(self, instance_id: str, room: Room, *, who: str) -> bool:
        """Reserve a place for a waiting instance and ask who is in it to stop, in one step."""
        with self._lock:
            record = self._instances.get(instance_id)
            if record is None or not _waits(record) or record.reserved:
                return False
            if not self._made_room(instance_id, room, who):
                return False
            self._instances[instance_id] = replace(
                record, reserved=room.placement, revision=record.revision + 1
            )
            self._event(instance_id, BY_EVICT, who, Status.PENDING, room.reason)
            return True

    def give_up_room(self, instance_id: str) -> bool:
        """Give back what is reserved for a waiting instance; return False if nothing is."""
        with self._lock:
            record = self._instances.get(instance_id)
            if record is None or record.reserved is None:
                return False
            self._unreserve(record)
            gave_up = f"nobody makes room on {record.reserved.node} any more"
            self._event(instance_id, "line", "", Status.PENDING, gave_up)
            return True

    def rejoin(self, waiting: Instance, *, who: str) -> bool:
        """Have an instance wait again of which the store has lost the record, behind who waits."""
        with self._lock:
            name = waiting.instance_id
            if name in self._instances:
                return False
            self._instances[name] = replace(waiting, reserved=None)
            self._join_line(waiting)
            again = "waits in line again: Redis had lost its record"
            self._event(name, "line", who, Status.PENDING, again)
            return True

    def soonest_due(self, limit: int) -> list[Instance]:
        """Return the running instances that nobody uses and that expire next; not the pinned."""
        with self._lock:
            due = {one.instance_id: at for one in self._readable() if (at := due_at(one))}
            return [self._instances[name] for name in sorted(due, key=lambda n: due[n])[:limit]]

    def _join_line(self, instance: Instance) -> None:
        self._joined += 1
        priority = max(-MOST_PRIORITY, min(MOST_PRIORITY, instance.wanted.priority))
        self._line[instance.instance_id] = -priority, self._joined

    def _leave_line(self, instance_id: str) -> None:
        self._line.pop(instance_id, None)
        record = self._instances[instance_id]
        if record.reserved:
            self._unreserve(record)

    def _in_line(self) -> list[str]:
        return sorted(self._line, key=lambda name: self._line[name])

    def _made_room(self, instance_id: str, room: Room, who: str) -> bool:
        """Claim a place that is free once all victims have left it, and ask them to."""
        victims = [self._instances.get(name) for name in room.victims]
        for one in victims:
            if one is None or one.node != room.placement.node or not self._is_idle(one, room):
                return False
        if not self._has_room(instance_id, room.placement, room.max_instances, room.victims):
            return False
        claim = Claim(instance_id=instance_id, shares=room.placement.shares)
        self._claim(room.placement.node, claim)
        for one in victims:
            if one:
                reason = f"makes room for {instance_id}, and nobody used it"
                self._ask_to_stop(one, reason, BY_EVICT, who)
        return True

    def _is_idle(self, one: Instance, room: Room) -> bool:
        return may_be_evicted(
            one,
            self._clock(),
            min_ready_s=room.min_ready_s,
            priority=MOST_PRIORITY,  # whoever chose has looked at that
            quiet_s=room.quiet_s,
        )

    def _has_room(
        self, instance_id: str, placement: Placement, most: int, leaving: Collection[str]
    ) -> bool:
        if placement.node in self._cordons:
            return False
        stay = {
            name: claim
            for name, claim in self._claims[placement.node].items()
            if name != instance_id and name not in leaving
        }
        mine = Claim(instance_id=instance_id, shares=placement.shares)
        return len(stay) < most and not crowded(stay, mine)

    def _claim(self, node: str, claim: Claim) -> None:
        self._claims[node][claim.instance_id] = claim
        self._node_changed(node)

    def _unreserve(self, record: Instance) -> None:
        if record.reserved:
            self._claims[record.reserved.node].pop(record.instance_id, None)
            self._node_changed(record.reserved.node)
        self._instances[record.instance_id] = replace(
            record, reserved=None, revision=record.revision + 1
        )

    def _ask_to_stop(self, record: Instance, reason: str, by: str, who: str) -> None:
        raise NotImplementedError


def crowded(claims: Mapping[str, Claim], mine: Claim) -> set[str]:
    """Return the GPUs of which more than all would be held with `mine`."""
    held = dict(mine.shares)
    for claim in claims.values():
        for uuid, share in claim.shares.items():
            if uuid in held and claim.instance_id != mine.instance_id:
                held[uuid] += share
    return {uuid for uuid, share in held.items() if share > WHOLE}


def _waits(record: Instance) -> bool:
    return record.waiting and record.desired is Desired.RUNNING
