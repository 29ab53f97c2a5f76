"""No signal to a web process is lost while it boots.

From its fork until it has handlers of its own, a process has those of gunicorn's master, which
queue signals for the master that it is not. One told to end in that moment would go on serving,
and the master would wait for it to the end of its patience. So signals are held back from before
the fork until the process can hear them: our worker classes say so as soon as they have handlers,
gunicorn's own do not, so their processes hear nothing until the application is loaded.
"""

from __future__ import annotations

import signal

from gunicorn.arbiter import Arbiter

_HELD = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGUSR1)


def hold_signals_at_forks(server: Arbiter) -> None:
    """Have a master fork its processes so; each must call `hear_signals` once it can."""
    spawn = server.spawn_worker

    def spawn_deaf() -> int:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
        try:
            return int(spawn())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    server.spawn_worker = spawn_deaf


def hear_signals() -> None:
    """Take the signals that were held back, and all that follow."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
