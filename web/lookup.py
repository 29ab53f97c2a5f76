"""Asking the store about an instance that the routing table does not know.

The only way from a request to Redis, so it is narrow: whoever sends requests for ids that do not
exist must not become a load on Redis, and a Redis that hangs must not hold more than one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from shared.domain.instance import INSTANCE_ID, Instance
from shared.errors import InstanceNotReady, NotFound, StoreUnavailable
from shared.store import Store

_WINDOW_S = 1.0  # for so long an answer of the store holds: that there is none, that it is away
_QUESTIONS = 100  # per window; each is one round trip


class Lookup:
    """Asks one question at a time, never the same twice in a second, at most 100 a second.

    Args:
        store: whom to ask.
        clock: seconds, only ever forward.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = monotonic) -> None:
        self._store = store
        self._clock = clock
        self._one_at_a_time = threading.Lock()
        self._began = clock()  # the window
        self._questions = 0
        self._absent: set[str] = set()
        self._away: StoreUnavailable | None = None

    def get(self, instance_id: str) -> Instance:
        """Return the record.

        Raises:
            NotFound: there is none, or there was none less than a second ago.
            StoreUnavailable: the store does not answer, or did not less than a second ago.
            InstanceNotReady: too many were asked for in this second; asking again helps.
        """
        if not INSTANCE_ID.fullmatch(instance_id):
            raise _absent(instance_id)
        with self._one_at_a_time:
            self._refuse_without_asking(instance_id)
            self._questions += 1
            try:
                record = self._store.get(instance_id)
            except StoreUnavailable as error:
                self._begin_window()
                self._away = error
                raise
            if record is None:
                self._absent.add(instance_id)
                raise _absent(instance_id)
            return record

    def _refuse_without_asking(self, instance_id: str) -> None:
        if self._clock() - self._began >= _WINDOW_S:
            self._begin_window()
        if self._away is not None:
            raise StoreUnavailable(str(self._away)) from self._away
        if instance_id in self._absent:
            raise _absent(instance_id)
        if self._questions >= _QUESTIONS:
            raise InstanceNotReady(
                f"instance {instance_id} is not known here yet, and too many unknown ids are "
                "asked for to look it up now",
                retry_after_s=1,
            )

    def _begin_window(self) -> None:
        self._began = self._clock()
        self._questions = 0
        self._absent.clear()
        self._away = None


def _absent(instance_id: str) -> NotFound:
    return NotFound(f"no instance {instance_id}")
