"""How much processes have read and written: proc(5), /proc/PID/io."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from workers.process_tree import PROC


def bytes_moved(pids: Iterable[int]) -> int:
    """Return how many bytes these processes have read and written since they began.

    Through calls or, as mapped files are, from the disk; what has ended counts with its parent.
    """
    return sum(_moved(pid) for pid in pids)


def _moved(pid: int) -> int:
    told: dict[str, int] = {}
    with suppress(OSError):  # it has ended, or is not ours to look into
        for line in (PROC / str(pid) / "io").read_text().splitlines():
            name, _, number = line.partition(": ")
            told[name] = int(number)
    read = max(told.get("rchar", 0), told.get("read_bytes", 0))
    written = max(told.get("wchar", 0), told.get("write_bytes", 0))
    return read + written
