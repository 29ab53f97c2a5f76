"""What the kernel tells of having killed processes for want of memory.

Two witnesses. The kernel's log names the process, where it may be read (/dev/kmsg: root, or
kernel.dmesg_restrict=0). Counters only tell that it happened: memory.events of the worker's own
control group (cgroup v2; memory.oom_control in v1), else /proc/vmstat of the whole machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

RECENT_S = 60.0  # between a kill and the end of an engine that lost a process by it
_RECORD = 8_192  # bytes; the kernel's own limit of a record, PRINTKRB_RECORD_MAX, is less
_KILLED = re.compile(r"[Oo]ut of memory: Killed process (?P<pid>\d+) \((?P<name>[^)]*)\)")
_OURS = re.compile(r"VLLM::|vllm")  # titles that vLLM gives its processes
_PID_IN_LOG = re.compile(r"\bpid=(\d+)\)")


@dataclass(frozen=True, slots=True)
class Kill:
    """One line of the kernel's log."""

    at: float  # seconds, as time.monotonic()
    pid: int  # as the machine counts: other numbers than in a container
    name: str


class OomKiller:
    """Follows what the kernel killed; `look` often, so that `struck` knows when.

    Args:
        root: where proc, sys and dev are.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._count: int | None = None
        self._struck_at: float | None = None

    def look(self) -> None:
        """Read the counter; costs some microseconds."""
        count = self._counter()
        if self._count is not None and count is not None and count > self._count:
            self._struck_at = monotonic()
        self._count = count

    def struck(self, leader: int | None, last_log: Iterable[str], age_s: float) -> str:
        """Return what tells that it killed a process of this engine, or "".

        Args:
            leader: pid of the engine's first process.
            last_log: the engine's log, in which vLLM names its processes' pids.
            age_s: seconds since the engine was spawned.
        """
        pids = {int(pid) for line in last_log for pid in _PID_IN_LOG.findall(line)}
        now = monotonic()
        for kill in reversed(list(self._kills())):
            if kill.at >= now - age_s and _is_of(kill, pids | {leader}, now):
                return f"the kernel killed {kill.name} (pid {kill.pid}) for want of memory"
        self.look()
        if self._struck_at is not None and now - self._struck_at < RECENT_S:
            return f"the kernel killed for want of memory {now - self._struck_at:.0f} s before"
        return ""

    def _counter(self) -> int | None:
        for path in self._counters():
            with suppress(OSError):
                for line in path.read_text().splitlines():
                    name, _, number = line.partition(" ")
                    if name == "oom_kill":
                        return int(number)
        return None

    def _counters(self) -> Iterator[Path]:
        groups = self._root / "sys/fs/cgroup"
        with suppress(OSError):
            for line in (self._root / "proc/self/cgroup").read_text().splitlines():
                _, kinds, path = line.split(":", 2)
                if not kinds:
                    yield groups / path.lstrip("/") / "memory.events"
                elif "memory" in kinds.split(","):
                    yield groups / "memory" / path.lstrip("/") / "memory.oom_control"
                    yield groups / "memory/memory.oom_control"  # as a container sees its own
        yield self._root / "proc/vmstat"

    def _kills(self) -> Iterator[Kill]:
        try:
            log = os.open(self._root / "dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return
        try:
            yield from _kills_in(log)
        finally:
            os.close(log)


def kill_in(record: bytes) -> Kill | None:
    """Return the kill that a record of /dev/kmsg tells of, if it does.

    Its form: Documentation/ABI/testing/dev-kmsg of Linux; the text: mm/oom_kill.c.
    """
    head, _, text = record.decode(errors="replace").partition(";")
    match = _KILLED.search(text)
    if match is None:
        return None
    return Kill(int(head.split(",")[2]) / 1e6, int(match["pid"]), match["name"])


def _is_of(kill: Kill, pids: Collection[int | None], now: float) -> bool:
    return kill.pid in pids or (now - kill.at < RECENT_S and bool(_OURS.match(kill.name)))


def _kills_in(log: int) -> Iterator[Kill]:
    while True:
        try:
            record = os.read(log, _RECORD)
        except BrokenPipeError:  # that record has been overwritten meanwhile: on with the next
            continue
        except OSError:  # no more, or not for us
            return
        if not record:
            return
        if kill := kill_in(record):
            yield kill
