"""What gunicorn's master does on SIGHUP while the old web processes still have streams to end.

gunicorn 27 waits for them, up to the graceful timeout, and meanwhile hears no other signal and
replaces no process that dies; and it counts them among those that serve. With streams of minutes
that would be minutes without a master.
"""

from __future__ import annotations

import os

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

_ATTRIBUTE = "fleet_reloading"


class Reloading:
    """The old web processes of one master."""

    def __init__(self, server: Arbiter) -> None:
        self._server = server
        self._leaving: set[int] = set()  # ages, gunicorn's numbers of processes
        self._hup = server.handle_hup
        self._timeout = server.cfg.graceful_timeout
        server.handle_hup = self._reload

    @classmethod
    def of(cls, server: Arbiter) -> Reloading:
        """Return the master's one; the configuration, read anew at each reload, cannot keep it."""
        found = getattr(server, _ATTRIBUTE, None)
        if not isinstance(found, cls):
            found = cls(server)
            setattr(server, _ATTRIBUTE, found)
        return found

    def begins(self) -> None:
        """Have gunicorn wait for nobody, now that it has read the new configuration."""
        self._timeout = self._server.cfg.graceful_timeout
        self._server.cfg.set("graceful_timeout", 0)

    def ended(self, worker: Worker) -> None:
        """Hear that a process has ended: one that was leaving is not replaced."""
        if worker.age in self._leaving:
            self._leaving.discard(worker.age)
            self._server.num_workers -= 1

    def _reload(self) -> None:
        newest = self._server.worker_age
        try:
            self._hup()
        except SystemExit:
            if os.getpid() != self._server.pid:  # a new process, at its end
                raise
            self._server.log.warning("not reloaded: the configuration cannot be used")
            return
        self._server.cfg.set("graceful_timeout", self._timeout)
        self._leaving = {w.age for w in self._server.WORKERS.values() if w.age <= newest}
        self._server.num_workers += len(self._leaving)
