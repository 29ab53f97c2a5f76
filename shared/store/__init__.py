"""Where records live: the `Store` promise, kept by `RedisStore` and by `MemoryStore`.

Every method raises StoreUnavailable where the store does not answer; nothing is retried here.
Times are epoch seconds by the store's own clock, never by a caller's.

A record of an instance may be one that cannot be read: a newer version's, or a damaged one. Who
asks for it by its id is told so (RecordUnreadable); where many are read it is left out, so that it
keeps nobody from the others.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from shared.domain.instance import Instance, Status
from shared.domain.key import Key, KeyState
from shared.errors import Conflict, RecordUnreadable
from shared.store.demand import Demand, Demands, Places
from shared.store.history import Created, Event, History, LogLine, Once
from shared.store.line import Line, Room, how_created
from shared.store.listing import Listing, Page, Query, Since
from shared.store.nodes import Beat, Nodes, NodesSince

__all__ = [
    "KEEP_ENDED_S",
    "KEEP_FORGOTTEN_S",
    "USE_REPORT_S",
    "Beat",
    "Change",
    "Created",
    "Demand",
    "Event",
    "LogLine",
    "NodesSince",
    "Once",
    "Page",
    "Places",
    "Query",
    "Room",
    "Since",
    "Store",
    "how_created",
    "name_taken",
    "not_rotatable",
]

KEEP_ENDED_S = 86_400  # ended records, their events and logs: a day
KEEP_FORGOTTEN_S = 10 * 365 * 86_400  # records of which a lost node has not heard that they ended
USE_REPORT_S = 1.0  # at most between a request's begin and the first touch for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """What a node's worker has to look after, as it was read."""

    records: tuple[Instance, ...]
    stamps: Mapping[str, float | None]  # of the last change of each, by id; None: long ago


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A worker's compare-and-set of one record.

    It holds only if the record's generation is the one the decision was made upon, the node's
    epoch is the writer's, and the diagram has an arrow from the recorded status (or it stays).
    """

    instance_id: str
    node: str
    epoch: int  # of the node, as `announce` returned it: fences off a worker that was replaced
    generation: int
    status: Status
    fields: Mapping[str, object] = field(default_factory=dict)  # other worker fields to set
    by: str = "worker"  # what kind of who, for the event
    who: str = ""  # for the event; '': the node
    keep_s: int = KEEP_ENDED_S  # for which the record is kept if this ends it


class Store(History, Listing, Nodes, Line, Demands, Protocol):
    """Keeps records of instances, nodes and API keys, and their history."""

    def ping(self) -> None:
        """Return if the store answers."""

    def now(self) -> float:
        """Return the store's time in epoch seconds."""

    # instances

    def create(
        self,
        instance: Instance,
        max_instances: int,
        *,
        who: str = "",
        once: Once | None = None,
        room: Room | None = None,
    ) -> bool:
        """Record a new instance and claim its placement, in one step.

        One without a node joins the line; with `room` that is reserved for it, and who is in it is
        asked to stop, see `Line.make_room`.

        Return False, having changed nothing, if its node is full or cordoned, of one of its GPUs
        not enough is left, there will not be room, or something was created for `once` already.
        `created_at` is set here.

        Args:
            instance: the record.
            max_instances: of its node, or of that of `room`.
            who: asks, for the events.
            once: of creations with the same name, one is made.
            room: what it has reserved, for one that waits.
        """

    def get(self, instance_id: str) -> Instance | None:
        """Return the record, or None if there is none (any more).

        Raises:
            RecordUnreadable: there is one.
        """

    def unreadable(self) -> list[RecordUnreadable]:
        """Return which records this process came across that cannot be read, if they still cannot.

        Each is logged once.
        """

    def instances(self, *, with_ended: bool = False) -> list[Instance]:
        """Return all that are not ended, oldest first; and those that ended in the last day."""

    def placed_on(self, node: str) -> list[Instance]:
        """Return the node's instances that its worker has to look after.

        Not those that ended, and not those that failed and that nobody has asked to stop: nothing
        of them is left, and a day of them would cost every look of the worker.
        """

    def placed_since(self, node: str, last: Placed | None) -> Placed:
        """Return them as `placed_on` does, cheaply where nothing but their use has changed.

        Args:
            node: its name.
            last: what this returned before; None to have all read. What was changed by hand, past
                the scripts, is only seen so.
        """

    def stop(self, instance_id: str, *, reason: str, by: str, who: str = "") -> Instance | None:
        """Set `desired` to stopped; return the record, or None if there is none.

        Harmless to repeat: the first reason stays, unless `domain.instance.takes_over`. Of one
        whose stop failed, a user asks once more: its generation goes up. One that waits in line
        ends in the same step.

        Raises:
            RecordUnreadable: nothing has changed.
        """

    def apply(self, change: Change) -> bool:
        """Write `change` and what follows from it, in one step; return False if it did not hold.

        What follows: `running` starts the idle clock; leaving it ends it; `failed` and `stopped`
        release the claim and forget the engine's key; `stopped` ends the record, which is kept
        for a day; a change of status appends an event; every change is published.
        """

    def restore(self, kept: Instance, *, epoch: int, over: int | None, reason: str) -> bool:
        """Write a record whole, as its node has kept it, with its claim and its indexes.

        Holds only if the store has no such record, or the one with that revision on that node or
        in line, and the node's epoch is the writer's; return False, having changed nothing, if not.
        Not bound to the arrows of the diagram: it repairs what the store has lost. The idle clock
        begins anew. The event, by `worker`, says `reason`, and who claims the same GPUs.

        Args:
            kept: the record; times in it are by the store's clock, from before.
            epoch: of the node, as `announce` returned it.
            over: revision of the record that is replaced; None where there is none.
            reason: for the event.
        """

    # use

    def touch(self, under_way: Collection[str], *, ended: Collection[str] = ()) -> None:
        """Say which instances are in use now, or were since this was said last.

        Takes back what the idle sweep has asked of one that still runs: its use was not reported
        yet. Of one that a user has asked to stop it only says that it has not drained yet, and
        that only if requests are under way. Each web process touches what it uses at least once in
        USE_REPORT_S.
        """

    def retime(self, instance_id: str, timeout: int, *, who: str) -> None:
        """Have an instance that is to run stop after so many idle seconds; 0: never.

        They count from its last use. Harmless to repeat, and for one that is over.
        """

    def stop_idle(self, *, node: str | None = None, hold_s: float = 0.0) -> list[Instance]:
        """Set `desired` to stopped for all that are due, of `node` or of all; return those.

        Each is checked again in the step that stops it. Sweeping twice is harmless. Where more than
        half of the fleet's running instances are due at once, each is held back for `hold_s`
        first, and its events say so: see `domain.expiry.sweep`.
        """

    def swept_ago_s(self) -> float | None:
        """Return how many seconds ago all of the fleet was swept by `stop_idle`; None if never.

        Beat has that done; a node's sweep of its own does not count.
        """

    # API keys

    def api_keys(self) -> list[Key]:
        """Return all keys that were ever made, oldest first; none is ever forgotten."""

    def add_key(self, key: Key) -> bool:
        """Record a new key; return False if there is one of that id. `created_at` is set here."""

    def revoke_key(self, key_id: str) -> Key | None:
        """Revoke a key; return it, or None if there is none. Harmless to repeat."""

    def rotate_key(self, key_id: str, successor: Key, overlap_s: float) -> Key | None:
        """Record `successor` and have the old key expire, in one step.

        Args:
            key_id: of the old one, which expires after `overlap_s` if not sooner.
            successor: as for `add_key`; its id must be new.
            overlap_s: seconds in which both are good.

        Return the old key as it is then, or None if there is none.

        Raises:
            Conflict: the old one is not active, or was rotated already; nothing has changed.
        """

    # notification

    def changes(self, timeout_s: float) -> Generator[frozenset[str]]:
        """Yield the ids of instances whose records change, from now on.

        How far a start is, changes many times in each: that is only in `instances_since`.
        Changes that come faster than they are taken come together. Yields none once listening
        has begun, and again after each `timeout_s` without a change.
        A lost connection raises StoreUnavailable: read all records again, then listen again.
        """

    def key_changes(self, timeout_s: float) -> Generator[frozenset[str]]:
        """Yield the ids of keys that were made or changed, from now on; else as `changes`."""


def name_taken(name: str) -> Conflict:
    """Return the error for a node's name that a living worker has."""
    return Conflict(
        f"node {name} has a living worker with another RUN_DIR or on another machine; "
        "give each its own NODE_NAME"
    )


def not_rotatable(key: Key, now: float) -> Conflict:
    """Return the error for a key that cannot be rotated (any more)."""
    if key.successor:
        return Conflict(f"key {key.key_id} was rotated already, to {key.successor}; rotate that")
    state = key.state(now)
    why = "cannot be rotated" if state is KeyState.ACTIVE else f"is {state}, cannot be rotated"
    return Conflict(f"key {key.key_id} {why}; make a new one with `keys create`")
