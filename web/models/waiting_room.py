"""Where requests wait for a model of which no replica runs: the room has one started for them.

One line of places for each model, of those that wait in this process. Whoever has a place is called
once something has come of it: a replica takes requests (choose again), or there is an error to
answer with. Nothing in here blocks or asks anybody: `model_starts` does what has to be done.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic, time

from shared.domain.catalogue import Catalogue, Entry
from shared.domain.outlook import Outlook, Standing, how_far, outlook, progress_of, seconds_left
from shared.errors import FleetError, NotFound, TooManyWaiting
from shared.store import Places
from web.models.catalogue_file import CatalogueFile
from web.models.replicas import Replicas, Seen

COMMENT_EVERY_S = 5.0
"""Between two comment lines to a caller of a stream that waits; many clients give up after 30 s."""

_RETRY_S = 10  # where nobody knows when the model will be ready
_MOST_RETRY_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """How a model of the catalogue is, as this web process knows it."""

    status: Standing
    replicas: int  # that take requests
    waiting: int  # requests held, in all web processes
    reason: str = ""  # why it failed or waits
    progress: float | None = None
    eta_s: float | None = None


class Place:
    """One request's place in the line for a model. Compared by identity."""

    __slots__ = ("_room", "_wake", "entered_at", "error", "is_over", "is_sure", "model", "name")

    def __init__(
        self, room: WaitingRoom, model: str, name: str, wake: Callable[[], None], now: float
    ) -> None:
        self._room = room
        self._wake = wake
        self.model = model  # the catalogue's name
        self.name = name  # as the caller wrote it
        self.entered_at = now  # monotonic
        self.is_sure = False
        """Whether the line, which is that of all web processes together, has room for it."""
        self.is_over = False
        """Whether waiting has an end: choose a replica again, unless there is an `error`."""
        self.error: FleetError | None = None
        """What to answer: the start has failed, or has lasted too long."""

    def said(self) -> str:
        """Return how far it is, for a comment line: `loading 42 %, ETA 12 s`. Never blocks."""
        return self._room.said(self.model)

    def leave(self) -> None:
        """Give the place up: the caller has gone, or has what it waited for. Harmless to repeat."""
        self._room.left(self)

    def settle(self, error: FleetError | None) -> None:
        """Have it over, and tell; for the room only."""
        self.error = error
        self.is_over = True
        self._wake()


class _Line:
    """Who waits for one model."""

    __slots__ = ("left_at", "places")

    def __init__(self) -> None:
        self.places: dict[Place, None] = {}
        self.left_at: float | None = None  # when the last one gave up, until somebody else comes


class WaitingRoom:
    """Holds requests for models that the catalogue can start; any thread may call it.

    How both ways to an engine use it, where the name has no replica that takes requests:

        place = room.enter(name, wake)     # NotFound: the catalogue has no such model either
        ... until place.is_over; meanwhile a comment line every COMMENT_EVERY_S to SSE callers ...
        if place.error: answer it          # else choose among the replicas of `name` again; where
        place.leave()                      # there is none any more, enter again

    Args:
        file: has the catalogue in force.
        replicas: knows which there are.
        most: requests that wait for one model, in all web processes together.
    """

    def __init__(self, file: CatalogueFile, replicas: Replicas, *, most: int) -> None:
        self._file = file
        self._replicas = replicas
        self.most = most
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self._elsewhere: Mapping[str, int] = {}
        self.wanted: Callable[[], None] = lambda: None
        """Called, from any thread, when somebody has come or has given up."""

    # what the request path asks

    @property
    def catalogue(self) -> Catalogue:
        """The catalogue in force."""
        return self._file.current

    @property
    def fault(self) -> str:
        """What is wrong with the catalogue's file, so that another is in force, or none."""
        return self._file.fault

    def enter(self, name: str, wake: Callable[[], None]) -> Place:
        """Take a place in the line for the model of that name or alias, and have it started.

        Args:
            name: as the caller wrote it.
            wake: called, once, as `is_over` becomes true; from any thread, so that it may only
                hand on (`loop.call_soon_threadsafe`, `Event.set`).

        Raises:
            NotFound: the catalogue has no model of that name.
            TooManyWaiting: the line is full by this process alone. That of all together is known
                a moment later, and may be what the place is over with.
        """
        entry = self.catalogue.find(name)
        if entry is None:
            raise NotFound(f"no model {name!r} in the catalogue")
        with self._lock:
            line = self._lines.setdefault(entry.name, _Line())
            ahead = len(line.places)
            if ahead < self.most:
                place = Place(self, entry.name, name, wake, monotonic())
                line.places[place] = None
                line.left_at = None
        if ahead >= self.most:
            raise self._full(entry.name, ahead)
        self.wanted()
        return place

    def said(self, model: str) -> str:
        """Return how far the catalogue's `model` is, in a few words."""
        return how_far(self.outlook(model), time())

    def state(self, entry: Entry) -> ModelState:
        """Return how the model is, for listings."""
        seen, now = self._replicas.of(entry.name), time()
        found = _outlook(seen)
        loads = found.replica if found.standing is Standing.LOADING else None
        runs = found.standing is Standing.RUNNING
        return ModelState(
            status=found.standing,
            replicas=sum(one.serving for one in (*seen.staying, *seen.leaving)),
            waiting=self.waiting().get(entry.name, 0) + self._elsewhere.get(entry.name, 0),
            reason="" if runs or found.replica is None else found.replica.reason,
            progress=progress_of(loads, now) if loads else None,
            eta_s=seconds_left(loads, now) if loads else None,
        )

    def left(self, place: Place) -> None:
        """Take a place out of its line; harmless to repeat."""
        with self._lock:
            line = self._lines.get(place.model)
            if line is None or place not in line.places:
                return
            del line.places[place]
            if not line.places:
                line.left_at = monotonic()
        self.wanted()  # others may have the place

    # what has models started

    def outlook(self, model: str) -> Outlook:
        """Return how the catalogue's `model` is; replicas of lost nodes are none of it."""
        return _outlook(self._replicas.of(model))

    def waiting(self) -> dict[str, int]:
        """Return how many wait for each model in this process; but for those with nobody."""
        with self._lock:
            return {name: len(line.places) for name, line in self._lines.items() if line.places}

    def places(self) -> dict[str, list[Place]]:
        """Return who waits for each model in this process, first come first."""
        with self._lock:
            return {name: list(line.places) for name, line in self._lines.items() if line.places}

    def admit(self, model: str, places: Iterable[Place], line: Places) -> None:
        """Hear for how many of `places` the line has room; the last of them are refused."""
        full = set()
        for number, place in enumerate(places):
            if number < line.here:
                place.is_sure = True
            else:
                full.add(place)
        if full:
            self.settle(model, self._full(model, line.here + line.elsewhere), full.__contains__)

    def lengths(self) -> dict[str, int]:
        """Return how many wait in this process for each model of the catalogue, also none."""
        return {**dict.fromkeys(self.catalogue.entries, 0), **self.waiting()}

    def given_up(self) -> dict[str, float]:
        """Return the models for which nobody waits any more, all having left; and since when."""
        with self._lock:
            lines = self._lines.items()
            return {name: line.left_at for name, line in lines if line.left_at is not None}

    def give_up(self, model: str) -> None:
        """Have it that all who waited for `model` have left: it is not to be had any more."""
        with self._lock:
            line = self._lines.setdefault(model, _Line())
            if not line.places:
                line.left_at = monotonic()

    def forget(self, model: str) -> None:
        """Hear that nothing is to be done any more about all having left."""
        with self._lock:
            line = self._lines.get(model)
            if line is not None and not line.places:
                del self._lines[model]

    def hear_elsewhere(self, waiting: Mapping[str, int]) -> None:
        """Hear how many wait in other web processes, by model."""
        self._elsewhere = waiting

    def settle(
        self,
        model: str,
        error: FleetError | None,
        concerned: Callable[[Place], bool] = lambda _: True,
    ) -> None:
        """Have all who wait for `model`, and are concerned, answered, or choose again."""
        with self._lock:
            line = self._lines.get(model)
            if line is None:
                return
            over = [place for place in line.places if concerned(place)]
            for place in over:
                del line.places[place]
            if not line.places and line.left_at is None:
                del self._lines[model]
        for place in over:
            place.settle(error)

    def _full(self, model: str, ahead: int) -> TooManyWaiting:
        return TooManyWaiting(
            f"model {model!r} is {self.said(model)}, and {ahead} requests wait for it already; "
            f"MODEL_QUEUE allows {self.most}",
            retry_after_s=self._retry_after_s(model),
        )

    def _retry_after_s(self, model: str) -> int:
        replica = self.outlook(model).replica
        left = seconds_left(replica, time()) if replica else None
        return _RETRY_S if left is None else min(_MOST_RETRY_S, max(1, math.ceil(left)))


def _outlook(seen: Seen) -> Outlook:
    return outlook((*seen.staying, *seen.leaving, *seen.over))
