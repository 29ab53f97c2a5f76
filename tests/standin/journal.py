"""What the engine has done so far: finished requests, and the counters behind /metrics."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

_KEPT: Final = 1000


class Seen(NamedTuple):
    """One finished request."""

    target: str  # path and query as they arrived
    outcome: str  # "done", or "aborted": the client left before the answer was complete
    seconds: float


class Load(NamedTuple):
    """The counters at one moment."""

    running: int  # generations accepted and not over
    iterations: int  # tokens generated since the start, one an iteration


class Journal:
    """Counts for the whole process; safe to use from every thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: deque[Seen] = deque(maxlen=_KEPT)
        self._running = 0
        self._iterations = 0

    def finish(self, target: str, outcome: str, seconds: float) -> None:
        """Add one finished request, forgetting the oldest beyond the last thousand."""
        with self._lock:
            self._seen.append(Seen(target, outcome, seconds))

    def seen(self) -> list[Seen]:
        """Return the last finished requests, newest last."""
        with self._lock:
            return list(self._seen)

    @contextmanager
    def running(self, *, for_good: bool = False) -> Iterator[None]:
        """Count one generation as running until the block ends.

        Args:
            for_good: leave it counted, as a hung scheduler never hears that its client left.
        """
        with self._lock:
            self._running += 1
        try:
            yield
        finally:
            if not for_good:
                with self._lock:
                    self._running -= 1

    def count_token(self) -> None:
        """Count one iteration of the scheduler, which made one token."""
        with self._lock:
            self._iterations += 1

    def load(self) -> Load:
        """Return the counters, all of the same moment."""
        with self._lock:
            return Load(self._running, self._iterations)
