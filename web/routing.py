"""This process's routing table: every instance that is not ended, as last heard.

Fed by the store's notifications and by a full read every few seconds. The request path reads it and
touches no Redis. What it knows it keeps until it sees that an instance has ended: with the store
away, and also when the store has lost a record, or has one that cannot be read, because the engine
still runs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from shared.domain.instance import Desired, Instance, Status
from shared.errors import InstanceNotReady, RecordUnreadable, StoreUnavailable
from shared.store import Store
from web.following_store import FollowingStore
from web.lookup import Lookup
from web.records import known

_REFRESH_S = 5.0  # should a notification be lost
_LOADING_RETRY_S = 5
_ANOTHER_ENGINE_RETRY_S = 5  # by then the worker has probed the engine
_MOST_ENDED = 2048  # remembered, newest kept; a few thousand bytes each
_MOST_UNRECORDED = 1024  # kept, newest kept; a few thousand bytes each
_NAMED = 10  # in one log line

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a table stands with the store."""

    instances: int  # in the table
    confirmed_at: float | None  # by time.monotonic(): when the store last gave the whole table
    store_up: bool


class RoutingTable:
    """Knows which instance is where. Whoever reads it waits for nobody: each read is one dict's.

    Args:
        store: to be followed.
        withdrawn: called, at once, when instances take no more requests.
    """

    def __init__(self, store: Store, withdrawn: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._withdrawn = withdrawn
        self._lookup = Lookup(store)
        self._instances: dict[str, Instance] = {}
        self._serving: dict[str, Instance] = {}  # those of them that take requests
        self._unrecorded: dict[str, None] = {}  # those of them that the store has lost, in order
        self._ended: dict[str, tuple[str, Instance | None]] = {}  # why, and as it was; oldest first
        self._changed = threading.Condition()  # held to change any of these four
        self._confirmed_at: float | None = None
        self._store_up: bool | None = None  # None: not heard of yet
        self._following = FollowingStore("routing table", self, store.changes, refresh_s=_REFRESH_S)

    def start(self) -> None:
        """Begin to follow the store, in a thread of its own."""
        self._following.start()

    def close(self) -> None:
        """Stop following, at the next notification or refresh."""
        self._following.close()

    # what the request path asks

    def serving(self, instance_id: str) -> Instance | None:
        """Return the instance if it is known to take requests now; never blocks."""
        return self._serving.get(instance_id)

    def route(self, instance_id: str) -> Instance:
        """Return the instance if it takes requests now.

        Asks the store only about one that this table has never heard of, see `Lookup`.

        Raises:
            NotFound: there is no such instance.
            InstanceNotReady: it loads, stops, has stopped or has failed; says which.
            RecordUnreadable: there is one, of which this table knows nothing.
            StoreUnavailable: the table does not know it, and the store cannot say.
        """
        instance = self._instances.get(instance_id)
        if instance is None:
            if ended := self._ended.get(instance_id):
                raise InstanceNotReady(ended[0], retry_after_s=None)
            instance = self._look_up(instance_id)
        if not instance.serving:
            raise _refusal(instance)
        return instance

    def gone(self, instance: Instance) -> InstanceNotReady | None:
        """Hear that the engine is not where the table has it; return what to answer.

        To be told where the connection was refused, or the engine's key by another one that is
        there now; not at a timeout, which a busy engine has, too. None where the store is there to
        tell what becomes of its record: then it is a gateway's error. Where nobody can tell, it
        counts as stopped; one whose record is lost leaves the table for good.
        """
        name = instance.instance_id
        with self._changed:
            if name in self._unrecorded:
                why = f"instance {name} is stopped: its engine is gone, and so is its record"
                self._drop(name, why)
                self._changed.notify_all()
                return InstanceNotReady(why, retry_after_s=None)
        if self._store_up is False:
            return InstanceNotReady(
                f"instance {name} is gone from its place, and Redis, which could say why, is away",
                retry_after_s=_LOADING_RETRY_S,
            )
        return None

    def another_answers(self, instance: Instance) -> InstanceNotReady:
        """Hear that another engine answers where the table has this one; return what to answer."""
        return self.gone(instance) or InstanceNotReady(
            f"instance {instance.instance_id}: another engine answers at its address",
            retry_after_s=_ANOTHER_ENGINE_RETRY_S,
        )

    def routes(self, instance_id: str) -> bool:
        """Say whether the table holds the instance, serving or not; never blocks."""
        return instance_id in self._instances

    def knows(self, instance_id: str) -> bool:
        """Say whether there is such an instance, or was; never blocks."""
        return instance_id in self._instances or instance_id in self._ended

    def last_known(self, instance_id: str) -> Instance | None:
        """Return the instance as last heard, also if it ended of late; never blocks."""
        known = self._instances.get(instance_id)
        return known or self._ended.get(instance_id, ("", None))[1]

    def standing(self) -> Standing:
        """Return how this table stands with the store."""
        return Standing(len(self._instances), self._confirmed_at, self._store_up is True)

    # what the control API asks

    def find(self, instance_id: str) -> Instance:
        """Return the record, ended or not; asks the store about one that is not in the table.

        Raises:
            NotFound: there is no such instance.
            RecordUnreadable: there is one, of which this table knows nothing.
            StoreUnavailable: the table does not know it, and the store cannot say.
        """
        return self._instances.get(instance_id) or known(self._store, instance_id)

    def wait_for(
        self, instance_id: str, done: Callable[[Instance], bool], timeout_s: float
    ) -> Instance:
        """Return the instance once `done` says so, or as it is when the time is up.

        Raises:
            NotFound: there is no such instance.
            StoreUnavailable: as for `find`.
        """
        deadline = monotonic() + timeout_s
        while True:
            seen = self._instances.get(instance_id)
            instance = self.find(instance_id)
            left = deadline - monotonic()
            if done(instance) or left <= 0:
                return instance
            with self._changed:
                self._changed.wait_for(
                    lambda seen=seen: self._instances.get(instance_id) is not seen,  # type: ignore[misc]
                    timeout=min(left, _REFRESH_S),
                )

    # what feeds it

    def hear(self, changed: str) -> None:
        """Read one instance again, because it changed."""
        self._take(self._read({changed}))
        self._store_up = True

    def refresh(self) -> None:
        """Read all instances again; of those that are not listed any more, see what became."""
        found: dict[str, Instance | None] = {
            record.instance_id: record for record in self._store.instances()
        }
        with self._changed:
            missing = self._instances.keys() - found.keys() - self._unrecorded.keys()
        self._take(found | self._read(missing))
        self._confirmed_at = monotonic()
        self._store_up = True

    def lose(self) -> str:
        """Hear that the store does not answer; return what goes on meanwhile."""
        self._store_up = False
        return "routing goes on with what is known"

    def _read(self, names: Collection[str]) -> dict[str, Instance | None]:
        """Read these; those that cannot be read stay as they are, for their engines run."""
        found: dict[str, Instance | None] = {}
        for name in names:
            with suppress(RecordUnreadable):  # the store has said it
                found[name] = self._store.get(name)
        return found

    def _take(self, found: Mapping[str, Instance | None]) -> None:
        """Take records into the table; None is one that the store does not have."""
        lost = []
        with self._changed:
            before = len(self._serving)
            for name, record in found.items():
                if record is None:
                    lost += self._lose(name)
                elif record.ended:
                    self._drop(name, str(_refusal(record)))
                else:
                    self._put(record)
            self._changed.notify_all()
            fewer = len(self._serving) < before
        if fewer:
            self._withdrawn()
        if lost:
            more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
            named = ", ".join(sorted(lost)[:_NAMED])
            log.warning("Redis has lost the record of %s%s; requests to it go on", named, more)

    def _put(self, record: Instance) -> None:
        name = record.instance_id
        self._instances[name] = record
        self._unrecorded.pop(name, None)
        if record.serving:
            self._serving[name] = record
        else:
            self._serving.pop(name, None)

    def _lose(self, name: str) -> list[str]:
        """Keep a running instance without a record; return it if that is news."""
        if name not in self._serving:
            if name in self._instances:  # failed a day ago, or never came up
                self._drop(name, _without_record(name))
            return []
        if name in self._unrecorded:
            return []
        self._unrecorded[name] = None
        if len(self._unrecorded) > _MOST_UNRECORDED:
            oldest = next(iter(self._unrecorded))
            self._drop(oldest, _without_record(oldest))
        return [name]

    def _drop(self, name: str, why: str, record: Instance | None = None) -> None:
        last = record or self._instances.get(name)
        for of in (self._instances, self._serving, self._unrecorded):
            of.pop(name, None)
        self._ended[name] = why, last
        if len(self._ended) > _MOST_ENDED:
            del self._ended[next(iter(self._ended))]

    def _look_up(self, instance_id: str) -> Instance:
        if self._store_up is False:
            raise StoreUnavailable(
                f"instance {instance_id} is not known here, and Redis does not answer"
            )
        record = self._lookup.get(instance_id)
        if record.ended:
            with self._changed:
                self._drop(instance_id, str(_refusal(record)), record)
        return record


def _refusal(instance: Instance) -> InstanceNotReady:
    name, status = instance.instance_id, instance.shown_status
    why = f": {instance.reason}" if instance.reason else ""
    if instance.ended:
        return InstanceNotReady(f"instance {name} is stopped{why}", retry_after_s=None)
    if status in (Status.PENDING, Status.STARTING, Status.BACKOFF):
        return InstanceNotReady(
            f"instance {name} is {status}{_stage(instance)}", retry_after_s=_LOADING_RETRY_S
        )
    if instance.about_to_stop_as_idle:
        return InstanceNotReady(f"instance {name} is about to stop as idle", retry_after_s=1)
    if instance.desired is Desired.STOPPED:
        return InstanceNotReady(f"instance {name} is {status}", retry_after_s=None)
    return InstanceNotReady(f"instance {name} is {status}{why}", retry_after_s=None)


def _without_record(name: str) -> str:
    return f"instance {name} is not known any more: Redis has no record of it"


def _stage(instance: Instance) -> str:
    if not instance.stage:
        return ""
    percent = "" if instance.progress is None else f" {instance.progress:.0%}"
    return f", stage {instance.stage}{percent}"
