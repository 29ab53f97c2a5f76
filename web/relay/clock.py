"""The time of one event loop."""

from __future__ import annotations

from email.utils import formatdate


class Clock:
    """Time, read once a tick: free to ask in every request."""

    def __init__(self, tick_s: float, now: float, idle_timeout_s: float) -> None:
        """Begin at the monotonic time `now`; all in seconds."""
        self.tick_s = tick_s
        self._idle_timeout_s = idle_timeout_s
        self.set(now)

    def set(self, now: float) -> None:
        """Go on to the monotonic time `now`, in seconds."""
        self.now = now
        self.idle_until = now + self._idle_timeout_s  # how long what moves now may then be silent
        self.date = formatdate(usegmt=True).encode()  # of the wall clock, as HTTP writes it
