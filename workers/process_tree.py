"""Which processes belong to an engine, and ending all of them. Linux: reads /proc.

A process belongs to an engine if any of these holds, because each alone misses some:
- its current directory is the engine's `work` folder, and it is nobody's but an orphan: inherited,
  survives the death of parents; vLLM's setproctitle wipes the environment of EngineCore and Worker
  (seen on 0.32.0), not this. An operator who looks around in there has a terminal, or a parent
  that lives and is none of ours;
- it is in the session of the engine's first process: survives a change of directory;
- it descends from the shim, to which orphans fall as it is their subreaper, or from a member;
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
WORK = "work"  # the name of an engine's current directory, in its run directory
ID_MARK = "FLEET_INSTANCE_ID"
RUN_DIR_MARK = "FLEET_RUN_DIR"
_ID_MARK, _RUN_DIR_MARK = ID_MARK.encode(), RUN_DIR_MARK.encode()
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
        return clock_gettime(CLOCK_BOOTTIME) - self.start_time / _ticks_per_s()


@dataclass(frozen=True, slots=True)
class Marks:
    """How an engine's processes are recognised."""

    instance_id: str
    work: Path
    leader: Identity | None  # the engine's first process, also leader of its session
    shim: int | None  # pid
    over_at: int | None = None  # ticks since boot: no member of its session began later


@dataclass(frozen=True, slots=True)
class _Stat:
    pid: int
    parent: int
    session: int
    terminal: int  # device number of the controlling terminal; 0 if it has none
    start_time: int


@cache
def boot_id() -> str:
    """Return the id of this boot of the machine; pids and start times mean nothing across it."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def ticks_now(in_s: float = 0.0) -> int:
    """Return the time in ticks since boot, now or in some seconds."""
    return int((clock_gettime(CLOCK_BOOTTIME) + in_s) * _ticks_per_s())


def pids() -> list[int]:
    """Return the pids of all processes, zombies too, in no order."""
    return [int(name) for name in os.listdir(PROC) if name.isdecimal()]  # noqa: PTH208 - half the time


def start_time(pid: int) -> int | None:
    """Return when process `pid` started, in ticks since boot; None if it does not run."""
    stat = _stat(pid)
    return None if stat is None else stat.start_time


def identity(pid: int) -> Identity | None:
    """Return the identity of the process that has `pid` now."""
    started = start_time(pid)
    return None if started is None else Identity(pid, started)


def name_of(pid: int) -> str:
    """Return the name of a process as `ps` shows it, or `ended`."""
    try:
        return (PROC / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return "ended"


def members(marks: Marks) -> set[int]:
    """Return the pids of all living processes of an engine, its shim not counted."""
    work = str(marks.work.resolve())  # as the kernel spells it
    stats = _stats()
    reapers = _reapers(stats)
    found = {
        pid
        for pid, stat in stats.items()
        if _in_session(stat, marks, stats)
        or (_is_orphan(stat, reapers) and _works_in(pid) == work)
        or _carried(pid)[0] == marks.instance_id
    }
    shim = {marks.shim} if marks.shim else set()
    return _with_descendants((found - {os.getpid()}) | shim, stats) - shim


def marked(engines_dir: Path) -> dict[str, set[int]]:
    """Return the pids of all living processes that carry marks of this node, by instance id.

    What `members` finds by session or shim only is not among them, but for their descendants.
    """
    engines = engines_dir.resolve()
    stats = _stats()
    reapers = _reapers(stats)
    del stats[os.getpid()]
    found: dict[str, set[int]] = {}
    for pid, stat in stats.items():
        instance_id, run_dir = _carried(pid)
        if instance_id and run_dir == str(engines.parent):
            found.setdefault(instance_id, set()).add(pid)
        elif _is_orphan(stat, reapers) and (work := _works_in(pid)):
            folder = Path(work).parent
            if folder.parent == engines and Path(work).name == WORK:
                found.setdefault(folder.name, set()).add(pid)
    return {name: _with_descendants(pids, stats) for name, pids in found.items()}


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


@cache
def _ticks_per_s() -> int:
    return os.sysconf("SC_CLK_TCK")


def _stats() -> dict[int, _Stat]:
    return {stat.pid: stat for pid in pids() if (stat := _stat(pid))}


def _stat(pid: int) -> _Stat | None:
    try:
        data = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name, in brackets, may hold anything: fields count from its closing bracket.
    # A name may be cut in the middle of a character; a field never is.
    state, parent, _, session, terminal, *rest = data[data.rindex(b")") + 2 :].split()
    if state in b"ZX":
        return None
    return _Stat(
        pid=pid,
        parent=int(parent),
        session=int(session),
        terminal=int(terminal),
        start_time=int(rest[14]),
    )


def _in_session(stat: _Stat, marks: Marks, stats: dict[int, _Stat]) -> bool:
    leader = marks.leader
    if leader is None or stat.session != leader.pid:
        return False
    # A leader with another start time is a stranger that got the pid, and its own session.
    if leader.pid in stats:
        return stats[leader.pid].start_time == leader.start_time
    # So it is if that stranger has ended, as the first process of every daemon does.
    return marks.over_at is None or stat.start_time <= marks.over_at


def _with_descendants(pids: set[int], stats: dict[int, _Stat]) -> set[int]:
    found = set(pids)
    while True:
        children = {pid for pid, stat in stats.items() if stat.parent in found} - found
        if not children:
            return found
        found |= children


def _reapers(stats: dict[int, _Stat]) -> set[int]:
    """Return to whom orphans of a shim can fall: init, and what we descend from ourselves."""
    found = {1, os.getpid()}
    pid = os.getpid()
    while pid in stats and stats[pid].parent not in found:
        pid = stats[pid].parent
        found.add(pid)
    return found


def _is_orphan(stat: _Stat, reapers: set[int]) -> bool:
    return stat.terminal == 0 and stat.parent in reapers


def _works_in(pid: int) -> str:
    try:
        return str((PROC / str(pid) / "cwd").readlink()).removesuffix(" (deleted)")
    except OSError:
        return ""


def _carried(pid: int) -> tuple[str, str]:
    """Return the instance id and the run directory that a process carries; "" for none."""
    try:
        environ = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return "", ""
    if _ID_MARK not in environ:
        return "", ""
    found = dict(word.partition(b"=")[::2] for word in environ.split(b"\0"))
    return (
        found.get(_ID_MARK, b"").decode(errors="replace"),
        os.fsdecode(found.get(_RUN_DIR_MARK, b"")),
    )
