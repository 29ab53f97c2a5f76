"""Has models of the catalogue started for those who wait for them, and cancelled where nobody does.

One thread looks at each line of the waiting room: whenever somebody comes or leaves, a replica
changes, and once a second. What it does is safe to do in several web processes at once: of starts
of one replica, the store lets one be.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from time import monotonic

from shared.domain.catalogue import Entry
from shared.domain.instance import Instance
from shared.domain.outlook import Outlook, Standing
from shared.errors import FleetError, ModelUnavailable, StoreUnavailable
from shared.store import Demand, Store
from web.models.replicas import Replicas
from web.models.waiting_room import Place, WaitingRoom
from web.tables.activity import Activity
from web.tables.routing import RoutingTable

_LOOK_S = 1.0  # should a notification be lost; how often demand is told
_DEMAND_KEPT_S = 10.0  # of a process that has ended without a word
_GRACE_S = 5.0  # a client that gave up comes again, by itself, after half a second to eight
_HOLD_OFF_S = 30.0  # from a start that failed for good to the next one
_NO_ROOM_RETRY_S = 10

log = logging.getLogger(__name__)


class ModelStarts:
    """Looks after the lines of a waiting room.

    Args:
        room: whose lines.
        table: where instances are.
        store: told of demand, and asked for it.
        replicas: makes and ends them.
        activity: which requests this process has under way.
        wait_s: the longest that somebody waits.
        cancels: whether a start is cancelled that nobody waits for any more.
    """

    def __init__(
        self,
        room: WaitingRoom,
        table: RoutingTable,
        store: Store,
        replicas: Replicas,
        activity: Activity,
        *,
        wait_s: float,
        cancels: bool,
    ) -> None:
        self._room = room
        self._table = table
        self._store = store
        self._replicas = replicas
        self._activity = activity
        self._wait_s = wait_s
        self._cancels = cancels
        self._holder = secrets.token_hex(8)
        self._told: dict[str, Demand] = {}
        self._told_at = 0.0
        self._failed: dict[str, tuple[str, Entry]] = {}  # id, and the entry as it was when seen
        self._awaited: dict[str, str] = {}  # model → id of the replica that is waited for
        self._woken = threading.Event()
        self._closed = False
        room.wanted = self._woken.set

    def start(self) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=self._run, name="model starts", daemon=True).start()

    def close(self) -> None:
        """Stop looking."""
        self._closed = True
        self._woken.set()

    def hear(self) -> None:
        """Have a look soon: a replica, or the catalogue, has changed. Never blocks."""
        self._woken.set()

    def look(self) -> None:
        """Do what is to be done for each line."""
        waiting = self._room.waiting()
        for model in self._awaited.keys() - waiting.keys():
            del self._awaited[model]  # what becomes of it concerns nobody who comes later
        self._tell()
        for model in self._room.waiting():
            self._safely(model, lambda model=model: self._look_at(model))  # type: ignore[misc]
        self._tell()  # who was let in just now keeps nobody out elsewhere
        for model, since in self._room.given_up().items():
            if not self._cancels:
                self._room.forget(model)
            elif monotonic() - since >= _GRACE_S:
                self._safely(model, lambda model=model: self._cancel(model))  # type: ignore[misc]

    # those who wait

    def _look_at(self, model: str) -> None:
        self._end_long_waits(model)
        entry = self._room.catalogue.entries.get(model)
        if entry is None:
            self._refuse(model, f"model {model!r} is not in the catalogue any more", None)
            self._room.give_up(model)
            return
        found = self._room.outlook(model)
        match found.standing:
            case Standing.RUNNING:
                self._let_in(model)
            case Standing.LOADING | Standing.QUEUED if found.replica:
                self._awaited[model] = found.replica.instance_id
            case Standing.CRASHED if found.replica:
                self._refuse(model, _why_failed(model, found.replica), self._retry_in(found))
            case Standing.FAILED if found.replica:
                self._start_again(entry, found.replica)
            case _:
                self._start_anew(entry)

    def _let_in(self, model: str) -> None:
        self._awaited.pop(model, None)
        self._failed.pop(model, None)
        self._room.settle(model, None)

    def _start_again(self, entry: Entry, failed: Instance) -> None:
        """Start one of which the last start has failed, unless that was just now."""
        seen = self._failed.get(entry.name)
        if seen is None or seen[0] != failed.instance_id:
            seen = self._failed[entry.name] = failed.instance_id, entry
        as_it_was = seen[1]
        is_awaited = self._awaited.pop(entry.name, None) == failed.instance_id
        left = (failed.ended_at or 0.0) + _HOLD_OFF_S - self._store.now()
        if left > 0 and (is_awaited or as_it_was == entry):
            self._refuse(entry.name, _why_failed(entry.name, failed), left)
        else:
            self._start(entry)

    def _start_anew(self, entry: Entry) -> None:
        awaited = self._awaited.pop(entry.name, None)
        gone = self._table.last_known(awaited) if awaited else None
        if gone is not None and gone.stop_by == "user":
            why = f"model {entry.name!r}: instance {awaited} was stopped: {gone.stop_reason}"
            self._refuse(entry.name, why, _NO_ROOM_RETRY_S)
        else:
            self._start(entry)

    def _start(self, entry: Entry) -> None:
        try:
            made = self._replicas.start(entry, at_most=1)
        except StoreUnavailable:
            raise
        except FleetError as error:
            why = f"model {entry.name!r} cannot be started: {error}"
            self._refuse(entry.name, why, _NO_ROOM_RETRY_S)
        else:
            if made is not None:
                self._awaited[entry.name] = made.instance_id

    def _refuse(self, model: str, why: str, retry_in: float | None) -> None:
        retry = None if retry_in is None else max(1, round(retry_in))
        self._room.settle(model, ModelUnavailable(why, retry_after_s=retry))

    def _retry_in(self, found: Outlook) -> float:
        at = found.replica.retry_at if found.replica else None
        return _NO_ROOM_RETRY_S if at is None else max(1.0, at - self._store.now())

    def _end_long_waits(self, model: str) -> None:
        oldest = monotonic() - self._wait_s

        def is_long(place: Place) -> bool:
            return place.entered_at <= oldest

        why = (
            f"model {model!r} is still {self._room.said(model)}, after {self._wait_s:g} s; "
            "see MODEL_WAIT"
        )
        self._room.settle(model, ModelUnavailable(why, retry_after_s=_NO_ROOM_RETRY_S), is_long)

    # those who have left

    def _cancel(self, model: str) -> None:
        """Stop what loads for nobody, unless somebody in another process waits for it."""
        elsewhere = self._store.demand(without=self._holder)
        self._room.forget(model)
        if elsewhere.get(model, Demand()).waiting:
            return
        entry = self._room.catalogue.entries.get(model)
        kept = entry.min_replicas if entry else 0
        seen = self._replicas.of(model)
        if any(one.serving for one in (*seen.staying, *seen.leaving)):
            return
        for replica in sorted(seen.staying, key=lambda one: one.created_at)[kept:]:
            self._replicas.stop(replica, "cancelled: nobody waits for it any more", by="unwanted")
            log.info("model %s: start of %s cancelled", model, replica.instance_id)

    # what the others know of us

    def _tell(self) -> None:
        """Say what is here, and hear who may wait: the line is that of all processes together."""
        places = self._room.places()
        demand = {model: Demand(waiting=len(those)) for model, those in places.items()}
        for instance_id, count in self._activity.in_flight().items():
            instance = self._table.last_known(instance_id)
            if instance is not None and instance.catalogue:
                before = demand.get(instance.catalogue, Demand())
                demand[instance.catalogue] = before + Demand(running=count)
        is_due = monotonic() - self._told_at >= _LOOK_S
        if not places:
            self._room.hear_elsewhere({})
        if _waiting(demand) == _waiting(self._told) and not (is_due and (demand or self._told)):
            return
        sure = {model: sum(one.is_sure for one in those) for model, those in places.items()}
        try:
            lines = self._store.tell_demand(
                self._holder, demand, _DEMAND_KEPT_S, most=self._room.most, sure=sure
            )
        except StoreUnavailable as error:  # each process has a line of its own meanwhile
            self._room.hear_elsewhere({})
            log.debug("demand not told: %s", error)
            return
        self._told_at = monotonic()
        self._told = {m: Demand(one.running, lines[m].here) for m, one in demand.items()}
        self._room.hear_elsewhere({model: line.elsewhere for model, line in lines.items()})
        for model, those in places.items():
            self._room.admit(model, those, lines[model])

    def _run(self) -> None:
        while not self._closed:
            self._woken.wait(_LOOK_S)
            self._woken.clear()
            try:
                self.look()
            except Exception:  # who waits would wait for ever
                log.exception("waiting room not looked after; trying again")

    def _safely(self, model: str, act: Callable[[], None]) -> None:
        try:
            act()
        except StoreUnavailable as error:
            log.warning("model %s: %s", model, error)
            self._refuse(model, f"model {model!r} cannot be started: {error}", 2)


def _waiting(demand: Mapping[str, Demand]) -> dict[str, int]:
    return {model: one.waiting for model, one in demand.items() if one.waiting}


def _why_failed(model: str, replica: Instance) -> str:
    said = [replica.first_reason or replica.reason or replica.cause, replica.advice]
    why = "; ".join(part for part in said if part) or "it ended"
    return f"model {model!r} did not start, see instance {replica.instance_id}: {why}"
