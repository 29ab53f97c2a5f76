"""What the store keeps of the line: instances that wait for a place, and what is reserved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shared.domain.instance import Instance
from shared.domain.placement import Placement

MOST_PRIORITY = 1_000
"""Of an instance, above and below 0: place in the line is one number, exact to the last."""

NEVER_RAN = "it waited in line, nothing of it ran"
"""What the last event says of an instance that is asked to stop before it has a place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A place that is free once some have left it, who are asked to stop in the same step."""

    placement: Placement
    max_instances: int  # of its node
    victims: tuple[str, ...]  # ids; each is checked again
    quiet_s: float  # for which each victim has not been used
    min_ready_s: float  # for which each has been ready

    @property
    def reason(self) -> str:
        """What its event says."""
        return f"waits for room on {self.placement.node}: {', '.join(self.victims)} asked to stop"


class Line(Protocol):
    """Keeps the line: the part of the `Store` promise that is about instances without a node.

    Who is in it has no node and is `pending`. By priority, higher first; of the same, oldest first.
    """

    def waiting(self, limit: int) -> list[Instance]:
        """Return the first `limit` instances of the line, in line."""

    def line_length(self) -> int:
        """Return how many wait in line."""

    def position(self, instance_id: str) -> int | None:
        """Return how many an instance is in the line, from 1; None if it does not wait."""

    def ahead_of_new(self, priority: int) -> int:
        """Return how many wait that come before a new instance of that priority."""

    def place(
        self, instance_id: str, placement: Placement, max_instances: int, *, who: str
    ) -> bool:
        """Give a waiting instance its place, and claim that, in one step.

        What was reserved for it is given back. Return False, having changed nothing, if it does not
        wait (any more), or its place is taken or cordoned.
        """

    def make_room(self, instance_id: str, room: Room, *, who: str) -> bool:
        """Reserve a place for a waiting instance and ask who is in it to stop, in one step.

        Return False, having changed nothing, if it does not wait (any more) or has something
        reserved already, or if one of the victims is in use, is pinned or does not run, or if the
        place is not free without them.
        """

    def give_up_room(self, instance_id: str) -> bool:
        """Give back what is reserved for a waiting instance; return False if nothing is."""

    def rejoin(self, waiting: Instance, *, who: str) -> bool:
        """Have an instance wait again of which the store has lost the record, behind who waits.

        Nothing is reserved for it any more. Return False, having changed nothing, if there is a
        record: of one that has a place, or has ended, it is kept.
        """

    def soonest_due(self, limit: int) -> list[Instance]:
        """Return the running instances that nobody uses and that expire next; not the pinned."""


def how_created(instance: Instance, room: Room | None) -> str:
    """Return what the first event of an instance says."""
    if room:
        return f"created, {room.reason}"
    if instance.node:
        return f"created, placed on {instance.node}"
    return f"created, waits in line: {instance.reason}"
