"""Which processes belong to an engine, and ending all of them. Linux: reads /proc.

A process belongs to an engine if any of these holds, because each alone misses some:
- its current directory is the engine's `work` folder: inherited, survives the death of parents;
  vLLM's setproctitle wipes the environment of EngineCore and Worker (seen on 0.32.0), not this;
- it is in the session of the engine's first process: survives a change of directory;
- it descends from the shim, to which orphans fall as it is their subreaper;
- its environment carries FLEET_INSTANCE_ID of this instance.

Standard library only: the shim runs on it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Event
from time import CLOCK_BOOTTIME, clock_gettime, monotonic

PROC = Path("/proc")
_EMPTY_SCANS = 2  # in a row: a fork under way escapes one
_SCAN_GAP_S = 0.02  # between two scans: a fork under way shows up in the next one


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for certain: a pid alone is reused."""

    pid: int
    start_time: int  # clock ticks since boot: /proc/PID/stat field 22, see proc(5)

    @property
    def alive(self) -> bool:
        """Whether this very process runs (a zombie does not)."""
        return start_time(self.pid) == self.start_time

    @property
    def age_s(self) -> float:
        """Seconds since it started, those in which the machine slept included."""
        return clock_gettime(CLOCK_BOOTTIME) - self.start_time / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Marks:
    """How an engine's processes are recognised."""

    instance_id: str
    work: Path
    leader: Identity | None  # the engine's first process, also leader of its session
    shim: int | None  # pid


@dataclass(frozen=True, slots=True)
class _Stat:
    pid: int
    parent: int
    session: int
    start_time: int


@cache
def boot_id() -> str:
    """Return the id of this boot of the machine; pids and start times mean nothing across it."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Return when process `pid` started, in ticks since boot; None if it does not run."""
    stat = _stat(pid)
    return None if stat is None else stat.start_time


def identity(pid: int) -> Identity | None:
    """Return the identity of the process that has `pid` now."""
    started = start_time(pid)
    return None if started is None else Identity(pid, started)


def members(marks: Marks) -> set[int]:
    """Return the pids of all living processes of an engine, its shim not counted."""
    work = str(marks.work.resolve())  # as the kernel spells it
    stats = {stat.pid: stat for pid in _pids() if (stat := _stat(pid))}
    strangers = {os.getpid(), marks.shim}
    return {
        pid
        for pid, stat in stats.items()
        if pid not in strangers
        and (
            _in_session(stat, marks.leader, stats)
            or _descends(stat, marks.shim, stats)
            or _works_in(pid, work)
            or _carries(pid, marks.instance_id)
        )
    }


def kill(find: Callable[[], set[int]], patience_s: float) -> set[int]:
    """SIGKILL what `find` finds until two scans in a row are empty; return what is left.

    Blocks for at most `patience_s` (tens of milliseconds, unless the kernel holds one fast).
    """
    deadline = monotonic() + patience_s
    empty_scans = 0
    while True:
        found = find()
        empty_scans = 0 if found else empty_scans + 1
        if empty_scans == _EMPTY_SCANS or monotonic() > deadline:
            return found
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        Event().wait(_SCAN_GAP_S)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(PROC) if name.isdecimal()]  # noqa: PTH208 - half the time


def _stat(pid: int) -> _Stat | None:
    try:
        data = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name, in brackets, may hold anything: fields count from its closing bracket.
    # A name may be cut in the middle of a character; a field never is.
    state, parent, _, session, *rest = data[data.rindex(b")") + 2 :].split()
    if state in b"ZX":
        return None
    return _Stat(pid=pid, parent=int(parent), session=int(session), start_time=int(rest[15]))


def _in_session(stat: _Stat, leader: Identity | None, stats: dict[int, _Stat]) -> bool:
    if leader is None or stat.session != leader.pid:
        return False
    # A leader with another start time is a stranger that got the pid, and its own session.
    holder = stats.get(leader.pid)
    return holder is None or holder.start_time == leader.start_time


def _descends(stat: _Stat, shim: int | None, stats: dict[int, _Stat]) -> bool:
    if shim is None:
        return False
    seen: set[int] = set()
    parent = stat.parent
    while parent in stats and parent not in seen:
        if parent == shim:
            return True
        seen.add(parent)
        parent = stats[parent].parent
    return False


def _works_in(pid: int, work: str) -> bool:
    try:
        return str((PROC / str(pid) / "cwd").readlink()).removesuffix(" (deleted)") == work
    except OSError:
        return False


def _carries(pid: int, instance_id: str) -> bool:
    try:
        environ = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    return f"FLEET_INSTANCE_ID={instance_id}".encode() in environ.split(b"\0")
