"""Who holds what of a stop that failed: processes by pid and name, the port, GPU memory."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from shared.domain.instance import Instance
from workers import gpus, ports, process_tree
from workers.process_tree import PROC

_NAMED = 10  # pids in one reason; the rest as a number


def what_is_left(pids: Collection[int], record: Instance) -> str:
    """Return a line that names what of an engine is still there, and which process holds it.

    Args:
        pids: its processes that still run.
        record: of its instance; says which port and GPUs it had.
    """
    left = [f"{_named(sorted(pids))} could not be ended"] if pids else []
    if record.port is not None and not ports.is_released(record.host, record.port):
        left.append(f"port {record.port} is held by {_named(_holders_of_port(record.port))}")
    if of_gpus := gpus.why_not_released(record.gpus):
        left.append(of_gpus)
    return "; ".join(left) or "for too long something of it was there; nothing is now"


def _named(pids: list[int]) -> str:
    if not pids:
        return "a process that cannot be seen"
    more = f" and {len(pids) - _NAMED} more" if len(pids) > _NAMED else ""
    return ", ".join(f"pid {pid} ({process_tree.name_of(pid)})" for pid in pids[:_NAMED]) + more


def _holders_of_port(port: int) -> list[int]:
    # A socket that is bound and does not listen is in no table of the kernel's: not found here.
    sockets = {f"socket:[{inode}]" for inode in ports.sockets_on(port)}
    if not sockets:
        return []
    return [pid for pid in sorted(process_tree.pids()) if sockets & _open_files(pid)]


def _open_files(pid: int) -> set[str]:
    found: set[str] = set()
    with suppress(OSError):  # it has ended, or is not ours to look at
        for descriptor in Path(PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                found.add(str(descriptor.readlink()))
    return found
