"""Processes of a benchmark: pinned, in a session of their own, ended with it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import clock_gettime

from tests.bench.errors import BenchError
from tests.demo.waiting import until

# Should this process be killed, what it started must not go on alone.
ENDED_WITH_US = ("setpriv", "--pdeathsig", "TERM")

_START_S = 90.0  # LiteLLM takes its time
_END_S = 5.0
_LAST_WORDS = 2000  # characters
_SCHEDULED = 2  # clock_getcpuclockid(3): the process's clock of all time it ran, in ns


class Program:
    """A program that runs, with all processes that it starts."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        cpus: Collection[int],
        folder: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start it.

        Args:
            name: for its log, `folder`/`name`.log.
            command: words.
            cpus: the only ones it may run on.
            folder: where it works, unless `cwd` says otherwise.
            env: set besides the environment of this process.
            cwd: where it works.
        """
        self.name = name
        self.log = folder / f"{name}.log"
        words = [*ENDED_WITH_US, "taskset", "--cpu-list", _listed(cpus), *command]
        with self.log.open("wb") as output:
            self._popen = subprocess.Popen(
                words,
                cwd=cwd or folder,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether its first process lives."""
        return self._popen.poll() is None

    def pids(self) -> list[int]:
        """Return its processes."""
        return in_session(self._popen.pid)

    def await_ready(self, ready: Callable[[], bool]) -> None:
        """Return once `ready()` is true.

        Raises:
            BenchError: it did not become so, or the program ended; with its last words.
        """
        until(lambda: ready() or not self.running, _START_S)
        if not self.running or not ready():
            said = self.log.read_text(errors="replace")[-_LAST_WORDS:]
            raise BenchError(f"{self.name} does not answer as it should; it said:\n{said}")

    def end(self) -> None:
        """End all its processes: SIGTERM, then SIGKILL."""
        _signal(self.pids(), signal.SIGTERM)
        until(lambda: self._popen.poll() is not None and not self.pids(), _END_S)
        _signal(self.pids(), signal.SIGKILL)
        self._popen.wait()


def in_session(leader: int) -> list[int]:
    """Return the processes of a session."""
    return sorted(pid for pid in _all_pids() if _session(pid) == leader)


def cpu_seconds(pids: Collection[int]) -> float:
    """Return the CPU time that these processes have used, to the nanosecond."""
    used = 0.0
    for pid in pids:
        with suppress(OSError):  # it has ended
            used += clock_gettime((~pid << 3) | _SCHEDULED)
    return used


def memory_mib(pids: Collection[int]) -> float:
    """Return the memory that these processes hold: shared pages are divided among their users."""
    kib = 0
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kib += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024


def _listed(cpus: Collection[int]) -> str:
    return ",".join(str(cpu) for cpu in sorted(cpus))


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - names


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _signal(pids: Collection[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
