"""The parent process of one engine: `python -m workers.shim RUN_DIRECTORY`.

It outlives the worker, so that killing or upgrading the worker loses neither the engine nor its
exit code. It holds the lock of the run directory, spawns the engine in a session of its own,
copies its output to a log of bounded size, and waits. SIGTERM tells it to stop the engine: SIGTERM
to the engine's first process, patience, SIGKILL to the whole tree. However the first process ends,
nothing of its tree is left when the shim exits, and exit.json says how it ended.

Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import selectors
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, time
from typing import Any

from workers import process_tree
from workers.log_file import LogFile
from workers.process_tree import Identity, Marks
from workers.run_directory import RunDirectory

_NOT_OURS = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
LOCKED = 3  # exit status: another shim holds this run directory
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_PIPE_BYTES = 2**20  # between the engine and us: it goes on while we wait for a processor
_CHUNK = 2**16
_CHUNKS_PER_TURN = 32  # then signals get a look, whatever the engine floods
_LAST_WORDS_S = 0.2  # to be on the disk; a slow one does not hold up the rest
_LEFTOVER_GRACE_S = 1.0  # for children to follow the first process out by themselves
_VERIFY_S = 10.0  # after SIGKILL: the kernel may need seconds to free GPU memory
_NOT_STARTED = 127  # exit status for a command that could not be run, as shells have it


def main() -> int:
    """Run one engine from spawn to the last of its processes."""
    run = RunDirectory(Path(sys.argv[1]))
    if not run.take_lock():
        return LOCKED
    launch = run.read("launch")
    if launch is None:
        sys.exit(f"{run.path} has no launch.json")
    become_subreaper()
    number = int(launch.get("run", 0))
    with contextlib.closing(LogFile(run.log(number), run.old_log(number))) as log:
        _run(run, launch, log)
    return 0


def _run(run: RunDirectory, launch: dict[str, Any], log: LogFile) -> None:
    number = int(launch.get("run", 0))
    try:
        engine = Engine(run, launch, log)
    except ToldToStop:
        run.write("exit", {"run": number, "code": None, "signal": signal.SIGTERM, "at": time()})
        return
    except (OSError, ValueError) as error:
        log.write(f"could not run {launch['command'][0]}: {error}\n".encode())
        run.write("exit", {"run": number, "code": _NOT_STARTED, "signal": None, "at": time()})
        return
    engine.watch()


def become_subreaper() -> None:
    """Make orphans of the engine's tree our children, so they are found and reaped."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


class ToldToStop(Exception):
    """The engine is to end before it has begun; there was no shim yet to be signalled."""


class Engine:
    """The engine's tree, as its parent sees it."""

    def __init__(self, run: RunDirectory, launch: dict[str, object], log: LogFile) -> None:
        """Spawn the engine and write state.json.

        Raises:
            ToldToStop: stop.json was there first.
            OSError, ValueError: the command could not be run.
        """
        self._run = run
        self._log = log
        self._number = int(str(launch.get("run", 0)))
        self._stop_timeout_s = float(str(launch["stop_timeout_s"]))
        self._kill_at: float | None = None
        self._exit: dict[str, object] | None = None
        self._selector = selectors.DefaultSelector()
        self._signals = self._catch_signals()
        # Whoever wrote it before this line may have found nobody to signal; later there is us.
        if run.read("stop", self._number) is not None:
            raise ToldToStop
        self._output, write_end = os.pipe()
        with contextlib.suppress(OSError):  # a user may be allowed less
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._leader = self._spawn(launch, write_end)
        os.close(write_end)
        os.set_blocking(self._output, False)
        self._selector.register(self._output, selectors.EVENT_READ, self._copy_output)
        self._marks = Marks(str(launch["instance_id"]), run.work, self._leader, os.getpid())
        state = {
            "run": self._number,
            "boot_id": process_tree.boot_id(),
            "pid": self._leader.pid,
            "start_time": self._leader.start_time,
            "shim": os.getpid(),
        }
        with contextlib.suppress(OSError):  # a full disk: we hold the lock, which says enough
            run.write("state", state)

    def watch(self) -> None:
        """Block until the first process has ended and nothing of its tree is left."""
        while self._exit is None:
            timeout = None if self._kill_at is None else max(0.0, self._kill_at - monotonic())
            self._handle(timeout)
            if self._kill_at is not None and monotonic() >= self._kill_at:
                self._kill_at = monotonic() + _VERIFY_S
                process_tree.kill(self._members, _VERIFY_S)
        # Whoever reads how it ended reads its last words next.
        self._copy_output()
        self._log.settle(_LAST_WORDS_S)
        with contextlib.suppress(OSError):  # a full disk must not keep us from clearing up
            self._run.write("exit", self._exit)
        grace_ends = monotonic() + _LEFTOVER_GRACE_S
        while self._members() and monotonic() < grace_ends:
            self._handle(0.05)
        process_tree.kill(self._members, _VERIFY_S)
        self._copy_output()

    def _spawn(self, launch: dict[str, object], output: int) -> Identity:
        self._process = process = subprocess.Popen(
            [str(word) for word in launch["command"]],  # type: ignore[attr-defined]
            env={str(k): str(v) for k, v in launch["env"].items()},  # type: ignore[attr-defined]
            cwd=self._run.work,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        # Not yet waited for, so the pid cannot have been reused even if it has ended already.
        return process_tree.identity(process.pid) or Identity(process.pid, 0)

    def _members(self) -> set[int]:
        self._reap()
        return process_tree.members(self._marks)

    def _handle(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            key.data()

    def _catch_signals(self) -> int:
        woken, wake = os.pipe()
        for end in (woken, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        for number in _NOT_OURS:
            signal.signal(number, lambda *_: None)  # ignoring would be inherited by the engine
        self._selector.register(woken, selectors.EVENT_READ, self._read_signals)
        return woken

    def _read_signals(self) -> None:
        numbers = os.read(self._signals, 512)
        if signal.SIGTERM in numbers and self._kill_at is None:
            self._kill_at = monotonic() + self._stop_timeout_s
            self._reap()
            if self._exit is None:
                os.kill(self._leader.pid, signal.SIGTERM)
        self._reap()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._leader.pid:
                    ended = os.waitstatus_to_exitcode(status)
                    self._exit = {
                        "run": self._number,
                        "code": ended if ended >= 0 else None,
                        "signal": -ended if ended < 0 else None,
                        "at": time(),
                        "over_at": process_tree.ticks_now(in_s=_LEFTOVER_GRACE_S + _VERIFY_S),
                    }

    def _copy_output(self) -> None:
        with contextlib.suppress(BlockingIOError, KeyError):  # drained; unregistered already
            for _ in range(_CHUNKS_PER_TURN):
                data = os.read(self._output, _CHUNK)
                if not data:  # every writer has closed it
                    self._selector.unregister(self._output)
                    return
                self._log.write(data)


if __name__ == "__main__":
    sys.exit(main())
