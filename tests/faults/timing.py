"""How long something takes to become so."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from time import monotonic

_LOOK_S = 0.01


def seconds_until(
    so: Callable[[], object], timeout_s: float, *, what: str, since: float | None = None
) -> float:
    """Return the seconds from `since` (monotonic; default: now) until `so()` is true.

    Raises:
        AssertionError: it has not become so within `timeout_s` from now.
    """
    begun = monotonic()
    while not so():
        assert monotonic() - begun < timeout_s, f"not within {timeout_s:g} s: {what}"
        pause(_LOOK_S)
    return monotonic() - (begun if since is None else since)


def pause(seconds: float) -> None:
    """Let time pass."""
    Event().wait(max(0.0, seconds))
