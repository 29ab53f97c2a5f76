"""Asking the store about an instance that the routing table does not know, or not as running.

The only way from a request to Redis, so it is narrow: whoever sends requests for ids that do not
exist must not become a load on Redis, and a Redis that hangs must not hold more than one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from shared.domain.instance import INSTANCE_ID, Instance
from shared.errors import InstanceNotReady, RecordUnreadable, StoreUnavailable
from shared.store import Store
from web.tables.records import absent

_WINDOW_S = 1.0  # for at most so long an answer of the store holds, also that it is away
_QUESTIONS = 100  # per window; each is one round trip
_SOON_S = 0.05  # no sooner is asked again whether an instance has come up


class Lookup:
    """Asks one question at a time, seldom the same twice in a second, at most 100 a second.

    Args:
        store: whom to ask.
        clock: seconds, only ever forward.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = monotonic) -> None:
        self._store = store
        self._clock = clock
        self._one_at_a_time = threading.Lock()
        self._began = clock()  # the window
        self._answers: dict[str, Instance | RecordUnreadable | None] = {}
        self._asked_at: dict[str, float] = {}
        self._asked = 0  # in the window
        self._away: StoreUnavailable | None = None

    def get(self, instance_id: str) -> Instance:
        """Return the record as it is, or was less than a second ago.

        Raises:
            NotFound: there is none.
            RecordUnreadable: there is one.
            StoreUnavailable: the store does not answer, or did not less than a second ago.
            InstanceNotReady: too many were asked for in this second; asking again helps.
        """
        if not INSTANCE_ID.fullmatch(instance_id):
            raise absent(instance_id)
        with self._one_at_a_time:
            self._see_which_window()
            if instance_id not in self._answers:
                self._ask(instance_id)
            record = self._answers[instance_id]
        if record is None:
            raise absent(instance_id)
        if isinstance(record, RecordUnreadable):
            raise record
        return record

    def later(self, known: Instance) -> Instance:
        """Return the record as it is, if it has changed since it was as `known`; else `known`.

        Whoever was told by another web process that an instance runs finds it running here, too,
        even if the notification is still on its way. Never raises: nobody needs to be asked.
        """
        name = known.instance_id
        with self._one_at_a_time:
            self._see_which_window()
            if self._clock() - self._asked_at.get(name, -_SOON_S) >= _SOON_S:
                with suppress(StoreUnavailable, InstanceNotReady):
                    self._ask(name)
            record = self._answers.get(name)
        return (
            record if isinstance(record, Instance) and record.revision > known.revision else known
        )

    def _ask(self, instance_id: str) -> None:
        if self._away is not None:
            raise StoreUnavailable(str(self._away)) from self._away
        if self._asked >= _QUESTIONS:
            raise InstanceNotReady(
                f"instance {instance_id} is not known here yet, and too many unknown ids are "
                "asked for to look it up now",
                retry_after_s=1,
            )
        self._asked += 1
        self._asked_at[instance_id] = self._clock()
        try:
            self._answers[instance_id] = self._store.get(instance_id)
        except RecordUnreadable as error:
            self._answers[instance_id] = error
        except StoreUnavailable as error:
            self._begin_window()  # it may have taken seconds to say so
            self._away = error
            raise

    def _see_which_window(self) -> None:
        if self._clock() - self._began >= _WINDOW_S:
            self._begin_window()

    def _begin_window(self) -> None:
        self._began = self._clock()
        self._asked = 0
        self._answers.clear()
        self._asked_at.clear()
        self._away = None
