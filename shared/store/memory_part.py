"""What each part of the store in memory has: a clock, a lock, listeners."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from contextlib import suppress


class MemoryPart:
    """A part of the store in memory.

    Args:
        clock: epoch seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.RLock()


def heard(listeners: list[queue.SimpleQueue[str]], timeout_s: float) -> Generator[frozenset[str]]:
    """Yield what is put, from now on; nothing at once, and after each `timeout_s` without."""
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    listeners.append(said)
    try:
        yield frozenset()
        while True:
            names = set()
            with suppress(queue.Empty):
                names.add(said.get(timeout=timeout_s))
                while True:
                    names.add(said.get_nowait())
            yield frozenset(names)
    finally:
        listeners.remove(said)
