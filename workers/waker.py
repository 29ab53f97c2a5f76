"""Sleep until there is something to look at: a doorbell, the end of a process, or the time."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from contextlib import suppress


class Waker:
    """One sleeper, any number of ringers. Costs nothing while nothing happens."""

    def __init__(self) -> None:
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._bell, select.POLLIN)
        self._pidfds: dict[int, int] = {}  # pid → pidfd: readable once the process has ended

    def ring(self) -> None:
        """Wake the sleeper, now or at its next sleep; from any thread, any number of times."""
        with suppress(BlockingIOError):
            os.eventfd_write(self._bell, 1)

    def watch(self, pids: Iterable[int]) -> None:
        """Wake at the end of these processes, and of no others any more."""
        wanted = set(pids)
        for pid in self._pidfds.keys() - wanted:
            self._forget(pid)
        for pid in wanted - self._pidfds.keys():
            try:
                self._pidfds[pid] = os.pidfd_open(pid)
            except ProcessLookupError:  # it has ended already
                self.ring()
            else:
                self._poll.register(self._pidfds[pid], select.POLLIN)

    def sleep(self, timeout_s: float) -> None:
        """Block until woken, at most `timeout_s`."""
        woken = {descriptor for descriptor, _ in self._poll.poll(timeout_s * 1000)}
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        for pid, pidfd in list(self._pidfds.items()):
            if pidfd in woken:
                self._forget(pid)

    def close(self) -> None:
        """Let go of everything watched."""
        for pid in list(self._pidfds):
            self._forget(pid)
        os.close(self._bell)

    def _forget(self, pid: int) -> None:
        pidfd = self._pidfds.pop(pid)
        self._poll.unregister(pidfd)
        os.close(pidfd)
