"""Which engines and shims of a fleet run on this machine, read from /proc, not from its records."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def engines(folder: Path) -> dict[str, list[int]]:
    """Return the pids of all first processes of engines below `folder`, by instance id."""
    found = defaultdict(list)
    for pid, instance_id in _in_work(folder):
        if _session(pid) == pid and b"\0serve\0" in _bytes(pid, "cmdline"):
            found[instance_id].append(pid)
    return dict(found)


def trees(folder: Path) -> dict[str, set[int]]:
    """Return the pids of everything that works in an engine's folder below `folder`, by id."""
    found = defaultdict(set)
    for pid, instance_id in _in_work(folder):
        found[instance_id].add(pid)
    return dict(found)


def shims(folder: Path) -> dict[str, list[int]]:
    """Return the pids of all shims of engines below `folder`, by instance id."""
    found = defaultdict(list)
    for pid in _pids():
        words = _bytes(pid, "cmdline").split(b"\0")
        if b"workers.shim" in words and words[-2].startswith(os.fsencode(folder)):
            found[Path(os.fsdecode(words[-2])).name].append(pid)
    return dict(found)


def named(title: str, pids: set[int]) -> list[int]:
    """Return which of `pids` have that title, as `VLLM::EngineCore`."""
    return [pid for pid in sorted(pids) if _bytes(pid, "cmdline").startswith(title.encode())]


def start_time(pid: int) -> int | None:
    """Return when `pid` started, in ticks since boot; None if it does not run."""
    with suppress(OSError):
        fields = _bytes(pid, "stat")
        state, *rest = fields[fields.rindex(b")") + 2 :].split() if fields else [b"X"]
        if state not in {b"Z", b"X"}:
            return int(rest[18])
    return None


def _in_work(folder: Path) -> Iterator[tuple[int, str]]:
    for pid in _pids():
        with suppress(OSError):
            cwd = str((PROC / str(pid) / "cwd").readlink()).removesuffix(" (deleted)")
            if cwd.startswith(f"{folder}/") and cwd.endswith("/work") and start_time(pid):
                yield pid, Path(cwd).parent.name


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(PROC) if name.isdecimal()]  # noqa: PTH208 - many


def _bytes(pid: int, name: str) -> bytes:
    try:
        return (PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1
