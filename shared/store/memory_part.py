"""What each part of the store in memory has: a clock, a lock, listeners."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator


class MemoryPart:
    """A part of the store in memory.

    Args:
        clock: epoch seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.RLock()


def heard(listeners: list[queue.SimpleQueue[str]], timeout_s: float) -> Generator[str | None]:
    """Yield what is put for one more listener; None at first, and after each silence."""
    mine: queue.SimpleQueue[str] = queue.SimpleQueue()
    listeners.append(mine)
    try:
        yield None
        while True:
            try:
                yield mine.get(timeout=timeout_s)
            except queue.Empty:
                yield None
    finally:
        listeners.remove(mine)
