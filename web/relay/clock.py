"""The time of one event loop."""

from __future__ import annotations

from email.utils import formatdate


class Clock:
    """Time, read once a tick: free to ask in every request."""

    def __init__(self, tick_s: float, now: float) -> None:
        self.tick_s = tick_s
        self.set(now)

    def set(self, now: float) -> None:
        """Go on to the monotonic time `now`, in seconds."""
        self.now = now
        self.date = formatdate(usegmt=True).encode()  # of the wall clock, as HTTP writes it
