"""Which instances are in use, reported to the store once a second.

An instance with a request under way is in use the whole time, so its idleness begins at the end of
its last request, to the second.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic

from shared.errors import StoreUnavailable
from shared.store import USE_REPORT_S, Store

log = logging.getLogger(__name__)


class Activity:
    """Counts requests under way; knows nothing of what they are.

    Event loops and threads may call it alike: what its lock guards takes less than a microsecond,
    and no input or output.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._under_way: dict[str, int] = {}
        self._ended: set[str] = set()  # since the last report
        self._woken = threading.Event()
        self._closed = False

    def start(self) -> None:
        """Begin to report, in a thread of its own."""
        threading.Thread(target=self._run, name="activity", daemon=True).start()

    def close(self) -> None:
        """Stop reporting."""
        self._closed = True
        self._woken.set()

    def tell_soon(self) -> None:
        """Have it reported at once what is under way: an instance is to stop, and drains."""
        self._woken.set()

    def begin(self, instance_id: str) -> None:
        """Note that a request to the instance is under way."""
        with self._lock:
            self._under_way[instance_id] = self._under_way.get(instance_id, 0) + 1

    def end(self, instance_id: str) -> None:
        """Note that a request to the instance, which `begin` was told of, has ended."""
        with self._lock:
            left = self._under_way[instance_id] - 1
            if left:
                self._under_way[instance_id] = left
            else:
                del self._under_way[instance_id]
            self._ended.add(instance_id)

    def running(self, instance_id: str) -> int:
        """Return how many requests to the instance are under way, in this process."""
        return self._under_way.get(instance_id, 0)

    def in_flight(self) -> dict[str, int]:
        """Return how many requests are under way to each instance that has any."""
        with self._lock:
            return dict(self._under_way)

    def report(self) -> None:
        """Tell the store what is in use or was since the last report.

        Raises:
            StoreUnavailable: nothing is forgotten; the next report says it all.
        """
        with self._lock:
            ended, self._ended = self._ended, set()
            under_way = set(self._under_way)
        try:
            self._store.touch(under_way, ended=ended)
        except StoreUnavailable:
            with self._lock:
                self._ended |= ended
            raise

    def _run(self) -> None:
        report_at = monotonic() + USE_REPORT_S
        while not self._closed:
            if self._woken.wait(max(0.0, report_at - monotonic())):
                self._woken.clear()
                self._safely(lambda: self._store.touch(self.in_flight().keys()))
            if monotonic() >= report_at:
                report_at = monotonic() + USE_REPORT_S
                self._safely(self.report)

    def _safely(self, report: Callable[[], None]) -> None:
        try:
            report()
        except StoreUnavailable as error:
            log.debug("use not reported: %s", error)
        except Exception:  # use that is not reported any more would end what is in use
            log.exception("use not reported; trying again")
