"""A control group of one's own with little memory, in which the kernel kills what takes more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Group:
    """One control group."""

    path: Path

    def entered_by(self, command: list[str]) -> list[str]:
        """Return a command that enters the group and then is `command`."""
        enter = 'echo $$ > "$0" && exec "$@"'
        return ["sh", "-c", enter, str(self.path / "cgroup.procs"), *command]

    def oom_kills(self) -> int:
        """Return how many of its processes the kernel has killed for want of memory."""
        for name in ("memory.oom_control", "memory.events"):
            if (self.path / name).exists():
                told = dict(line.split() for line in (self.path / name).read_text().splitlines())
                return int(told["oom_kill"])
        return 0


def can_limit_memory() -> bool:
    """Return whether this process may make such groups: root may, in most containers none may."""
    return os.geteuid() == 0 and _hierarchy() is not None


@contextmanager
def limited_memory(mib: int) -> Iterator[Group]:
    """Make a group that may have so much memory; remove it, once it is empty."""
    root = _hierarchy()
    assert root, "no control groups to limit memory with"
    group = Group(root / f"fleet-tests-{os.getpid()}")
    group.path.mkdir()
    try:
        limit = "memory.limit_in_bytes" if root == _V1 else "memory.max"
        (group.path / limit).write_text(str(mib * _MIB))
        yield group
    finally:
        group.path.rmdir()


def _hierarchy() -> Path | None:
    if (_V1 / "memory.limit_in_bytes").exists() and os.access(_V1, os.W_OK):
        return _V1
    controllers = _V2 / "cgroup.subtree_control"
    if controllers.exists() and "memory" in controllers.read_text() and os.access(_V2, os.W_OK):
        return _V2
    return None
