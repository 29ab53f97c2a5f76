"""How many connections each web process has, in memory that they share, so that each has its share.

All of them wake up for a new connection, and the first takes it: on a quiet machine nearly always
the same one, which then has all the streams. So one that has more than another leaves it a moment.
"""

from __future__ import annotations

from mmap import mmap

_MOST = 64  # processes; any further ones take what comes
_NOT_SERVING = 2**32 - 1


class Loads:
    """Of all processes of one master, which makes it before it has any."""

    def __init__(self) -> None:
        self._shared = memoryview(mmap(-1, 4 * _MOST)).cast("I")  # anonymous, kept across a fork
        self._taken: set[int] = set()
        for slot in range(_MOST):
            self._shared[slot] = _NOT_SERVING

    def new(self) -> Load:
        """Return the place of a process to come."""
        slot = next((n for n in range(_MOST) if n not in self._taken), None)
        if slot is not None:
            self._taken.add(slot)
        return Load(self._shared, slot)

    def free(self, load: Load) -> None:
        """Hear that a process has ended, in whatever way."""
        load.leave()
        self._taken.discard(-1 if load.slot is None else load.slot)


class Load:
    """One process's place."""

    def __init__(self, shared: memoryview[int], slot: int | None) -> None:
        self._shared = shared
        self.slot = slot

    def tell(self, connections: int) -> None:
        """Have the others know how many there are here."""
        if self.slot is not None:
            self._shared[self.slot] = connections

    def leave(self) -> None:
        """Have the others leave nothing to this process."""
        self.tell(_NOT_SERVING)

    def is_above(self, connections: int) -> bool:
        """Return whether another process, one that accepts, has fewer than that."""
        return self.slot is not None and connections > min(self._shared)
