"""Wait for something to become so."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from time import monotonic

_LOOK_S = 0.1


def until(so: Callable[[], object], timeout_s: float) -> bool:
    """Return True once `so()` is true, False if it has not become so in `timeout_s`."""
    deadline = monotonic() + timeout_s
    while not so():
        if monotonic() > deadline:
            return False
        Event().wait(_LOOK_S)
    return True
