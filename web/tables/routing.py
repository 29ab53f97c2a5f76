"""This process's routing table: every instance that is not ended, as last heard.

Fed by the store's notifications, and every few seconds by what else has changed. The request path
reads it and touches no Redis. What it knows it keeps until it sees that an instance has ended: with
the store away, and also when the store has lost a record, or has one that cannot be read, because
the engine still runs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import inf
from time import monotonic

from shared.domain.instance import Desired, Instance
from shared.errors import InstanceNotReady, StoreUnavailable
from shared.store import Store
from web.tables.by_name import Models
from web.tables.following_store import FollowingStore
from web.tables.lookup import Lookup
from web.tables.lost_line import with_rejoined
from web.tables.lost_nodes import LostNodes
from web.tables.records import known
from web.tables.refusals import LOADING_RETRY_S, refusal_of, without_record

_REFRESH_S = 5.0  # should a notification be lost
_GATHER_S = 0.05  # between two reads for notifications: where many change, many are read at once
_CHECKED = 50  # at each refresh: has the store lost one, that is seen after all had their turn
_ANOTHER_ENGINE_RETRY_S = 5  # by then the worker has probed the engine
_MOST_ENDED = 2048  # remembered, newest kept; a few thousand bytes each
_MOST_UNRECORDED = 1024  # kept, newest kept; a few thousand bytes each
_NAMED = 10  # in one log line

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a table stands with the store."""

    instances: int  # in the table
    confirmed_at: float | None  # by time.monotonic(): when the store last said what has changed
    store_up: bool


class RoutingTable:
    """Knows which instance is where. Whoever reads it waits for nobody: each read is one dict's.

    Args:
        store: to be followed.
        withdrawn: called, at once, when instances take no more requests.
        why_lost: how a node is lost, by its name; "" if it is not.
    """

    def __init__(
        self,
        store: Store,
        withdrawn: Callable[[], None] = lambda: None,
        why_lost: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._store = store
        self._withdrawn = withdrawn
        self._told: list[Callable[[], None]] = []
        self._lookup = Lookup(store)
        self._lost_nodes = LostNodes(why_lost)
        self.unreached = self._lost_nodes.unreached
        self.models = Models()  # the same instances by the names of their models
        self._instances: dict[str, Instance] = {}
        self._serving: dict[str, Instance] = {}  # those of them that take requests
        self._unrecorded: dict[str, None] = {}  # those of them that the store has lost, in order
        self._ended: dict[str, tuple[str, Instance | None]] = {}  # why, and as it was; oldest first
        self._learned: dict[str, int] = {}  # since the last refresh: the revision, by id
        self._changed = threading.Condition()  # held to change any of these five
        self._cursor = ""  # of what the store says has changed
        self._to_check: list[str] = []  # by and by, whether the store still has it
        self._unreadable: list[str] = []  # as last seen: of one that is mended, nobody says so
        self._confirmed_at: float | None = None
        self._store_up: bool | None = None  # None: not heard of yet
        self._heard_at = -inf  # by time.monotonic()
        self._closed = threading.Event()
        self._following = FollowingStore("routing table", self, store.changes, refresh_s=_REFRESH_S)

    def start(self) -> None:
        """Begin to follow the store, in a thread of its own."""
        self._following.start()

    def close(self) -> None:
        """Stop following, at the next notification or refresh."""
        self._closed.set()
        self._following.close()

    def when_replicas_change(self, told: Callable[[], None]) -> None:
        """Have `told` called, in the following thread, when models' replicas may have changed."""
        self._told.append(told)

    # what the request path asks

    def serving(self, instance_id: str) -> Instance | None:
        """Return the instance if it is known to take requests now; never blocks."""
        instance = self._serving.get(instance_id)
        if self._lost_nodes and instance is not None and self._lost_nodes.refusal(instance):
            return None
        return instance

    def route(self, instance_id: str) -> Instance:
        """Return the instance if it takes requests now.

        Asks the store only about one that this table has never heard of, or not yet that it
        runs, see `Lookup`.

        Raises:
            NotFound: there is no such instance.
            InstanceNotReady: it loads, stops, has stopped or has failed, or has just taken no
                connection and its node is lost; says which.
            RecordUnreadable: there is one, of which this table knows nothing.
            StoreUnavailable: the table does not know it, and the store cannot say.
        """
        instance = self._instances.get(instance_id)
        if instance is None:
            if ended := self._ended.get(instance_id):
                raise InstanceNotReady(ended[0], retry_after_s=None)
            instance = self._look_up(instance_id)
        elif not instance.serving and instance.desired is Desired.RUNNING and self._store_up:
            later = self._lookup.later(instance)  # before a refusal, which costs more
            if later is not instance:
                self.learn(later)
            instance = later
        if not instance.serving:
            raise refusal_of(instance)
        if refusal := self._lost_nodes.refusal(instance):
            raise refusal
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
                retry_after_s=LOADING_RETRY_S,
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
        record = self._instances.get(instance_id)
        return record or self._ended.get(instance_id, ("", None))[1]

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

    def wait_until(self, done: Callable[[], bool], timeout_s: float) -> None:
        """Return once `done` says so after a change, or when the time is up."""
        with self._changed:
            self._changed.wait_for(done, timeout=timeout_s)

    def learn(self, record: Instance) -> None:
        """Take a record that a request of this process has just read or changed.

        So who is answered finds this process of the same mind: what was deleted takes no more
        requests, what was found running does. The following thread may have read an older one
        just before; that is not taken then.
        """
        name = record.instance_id
        with self._changed:
            held = self._instances.get(name)
            if name in self._ended or (held is not None and held.revision > record.revision):
                return  # the store has told more since
            self._learned[name] = record.revision
            before = len(self._serving)
            if record.ended:
                self._drop(name, str(refusal_of(record)), record)
            else:
                self._put(record)
            self._changed.notify_all()
            fewer = len(self._serving) < before
        if fewer:
            self._withdrawn()

    # what feeds it

    def hear(self, changed: Collection[str]) -> None:
        """Read some instances again, because they changed; what cannot be read stays as it is.

        Blocks for a moment if that was just done.
        """
        self._closed.wait(max(0.0, self._heard_at + _GATHER_S - monotonic()))
        self._heard_at = monotonic()
        self._take(self._found(changed))
        self._store_up = True

    def refresh(self) -> None:
        """Read what has changed since the last time, and some of the rest to be sure of it.

        So it costs what has changed, however many there are. Only at first, and where the store
        was away or has lost its memory, all are read; of those that it does not list any more, it
        is seen what became.
        """
        with self._changed:
            self._learned.clear()  # whatever is read from here on is newer
        since = self._store.instances_since(self._cursor)
        with self._changed:
            unseen = self._instances.keys() - since.found.keys() - self._unrecorded.keys()
        others = [*(unseen if since.whole else self._next_to_check(unseen)), *self._unreadable]
        self._take({**since.found, **self._found(others)})
        self._unreadable = [record.instance_id for record in self._store.unreadable()]
        self._cursor = since.cursor
        self._confirmed_at = monotonic()
        self._store_up = True

    def lose(self) -> str:
        """Hear that the store does not answer; return what goes on meanwhile."""
        self._store_up = False
        self._cursor = ""  # it may be another one, or an older copy, when it is back
        return "routing goes on with what is known"

    def _found(self, names: Collection[str]) -> Mapping[str, Instance | None]:
        return with_rejoined(self._store, self._instances, self._store.several(names))

    def _next_to_check(self, known: Collection[str]) -> list[str]:
        """Return a few of the table's instances; each is among them in its turn."""
        if not self._to_check:
            self._to_check = sorted(known)
        taken, self._to_check = self._to_check[-_CHECKED:], self._to_check[:-_CHECKED]
        return [name for name in taken if name in known]

    def _take(self, found: Mapping[str, Instance | None]) -> None:
        """Take records into the table; None is one that the store does not have."""
        lost = []
        with self._changed:
            before = len(self._serving)
            for name, record in found.items():
                if record is None:
                    lost += self._lose(name)
                elif record.revision < self._learned.get(name, 0):
                    continue
                elif record.ended:
                    self._drop(name, str(refusal_of(record)))
                else:
                    self._put(record)
            self._changed.notify_all()
            fewer = len(self._serving) < before
        if fewer:
            self._withdrawn()
        if any(record is None or record.catalogue for record in found.values()):
            for told in self._told:
                told()
        if lost:
            more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
            named = ", ".join(sorted(lost)[:_NAMED])
            log.warning("Redis has lost the record of %s%s; requests to it go on", named, more)

    def _put(self, record: Instance) -> None:
        name = record.instance_id
        self._instances[name] = record
        self._unrecorded.pop(name, None)
        self.models.put(record)
        if record.serving:
            self._serving[name] = record
        else:
            self._serving.pop(name, None)

    def _lose(self, name: str) -> list[str]:
        """Keep a running instance without a record; return it if that is news."""
        if name not in self._serving:
            if name in self._instances:  # failed a day ago, or never came up
                self._drop(name, without_record(name))
            return []
        if name in self._unrecorded:
            return []
        self._unrecorded[name] = None
        if len(self._unrecorded) > _MOST_UNRECORDED:
            oldest = next(iter(self._unrecorded))
            self._drop(oldest, without_record(oldest))
        return [name]

    def _drop(self, name: str, why: str, record: Instance | None = None) -> None:
        last = record or self._instances.get(name)
        self.models.drop(name)
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
        self.learn(record)
        return record
