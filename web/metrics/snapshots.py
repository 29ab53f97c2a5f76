"""What each web process has counted, as files, so that any of them can answer for all.

One folder per gunicorn master, one file per web process, replaced as a whole; one more file holds
the sums of those that have ended. Files that are mapped into memory would be cheaper, and would end
a web process with SIGBUS on a full disk; here a full disk is an OSError.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Any

BOUNDS_S = (0.01, 0.05, 0.2, 1.0, 5.0, 20.0, 60.0, 300.0)  # a tokenize … a long generation
_FORMAT = [2, *BOUNDS_S]  # a master of an older version may have web processes of a newer one
_ENDED = "ended.json"
_HALF = ".new"  # ends the name of a file that is being written
_KEEP_S = 86_400.0  # what ended processes have counted of an instance that no request went to since
_MOST_MERGED = 256  # names of files that are in the sums: of those a reader may still hold


log = logging.getLogger(__name__)


@dataclass(slots=True)
class Row:
    """How requests of one instance, status and way were answered."""

    instance_id: str
    status: int
    way: str
    buckets: list[int]  # answers of at most BOUNDS_S, not cumulative, and at last the longer ones
    seconds: float = 0.0  # all of them together
    changed_at: float = 0.0  # time.monotonic(), one clock for all processes of a machine

    @property
    def key(self) -> tuple[str, int, str]:
        """What it counts."""
        return self.instance_id, self.status, self.way


@dataclass(slots=True, kw_only=True)
class Snapshot:
    """What one web process has counted, or several together."""

    rows: list[Row] = field(default_factory=list)
    in_flight: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)  # for models of the catalogue
    routed: int = 0  # instances in its routing table
    confirmed_at: float | None = None  # time.monotonic(): its routing table was
    store_up: bool = False


class Snapshots:
    """The folder of one gunicorn master."""

    def __init__(self, run_dir: Path, master_pid: int) -> None:
        self._folder = run_dir / "web" / "metrics" / str(master_pid)

    def name_of_own(self) -> str:
        """Return a file name for this process that no other one has, before it or after."""
        return f"{os.getpid()}-{monotonic_ns():x}.json"

    def write(self, name: str, snapshot: Snapshot) -> None:
        """Replace the file of a process.

        Raises:
            OSError: the disk is full, or the folder cannot be made.
        """
        self._replace(
            name,
            {
                "rows": _listed(snapshot.rows),
                "in_flight": snapshot.in_flight,
                "waiting": snapshot.waiting,
                "routed": snapshot.routed,
                "confirmed_at": snapshot.confirmed_at,
                "store_up": snapshot.store_up,
            },
        )

    def read(self) -> tuple[dict[str, Snapshot], list[Row]]:
        """Return file name → snapshot of each living process, and the sums of those that ended."""
        # The sums last: a process that ends in between is then in both, and counted once.
        found = {path.name: _read(path) for path in self._processes()}
        merged, rows = self._sums()
        living = {
            name: _snapshot(read) for name, read in found.items() if read and name not in merged
        }
        return living, rows

    def clear(self) -> None:
        """Begin with an empty folder; remove those of masters that are gone.

        To be called by the master, before it has processes.
        """
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):
            for folder in list(self._folder.parent.iterdir()):
                if not _lives(folder.name):
                    shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder. To be called by the master, at its end."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def merge(self, living: Collection[int]) -> None:
        """Add what ended processes have counted to the sums, so that no count ever goes down.

        To be called by the master alone, whenever a process of its has ended. On a full disk
        nothing changes, and the next call does it.

        Args:
            living: pids of its other processes.
        """
        try:
            self._merge(frozenset(map(str, living)))
        except OSError as error:  # would end the master
            log.warning("metrics of an ended web process not added up: %s", error)

    def _merge(self, living: frozenset[str]) -> None:
        merged, rows = self._sums()
        paths = [path for path in self._processes() if path.name.partition("-")[0] not in living]
        for path in paths:
            if read := _read(path):
                rows += _snapshot(read).rows
            merged.append(path.name)
        fresh = [row for row in summed(rows) if monotonic() - row.changed_at < _KEEP_S]
        self._replace(_ENDED, {"merged": merged[-_MOST_MERGED:], "rows": _listed(fresh)})
        for path in paths:
            path.unlink(missing_ok=True)
            path.with_name(f"{path.name}{_HALF}").unlink(missing_ok=True)

    def _processes(self) -> list[Path]:
        return list(self._folder.glob("*-*.json"))

    def _sums(self) -> tuple[list[str], list[Row]]:
        read = _read(self._folder / _ENDED) or {"merged": [], "rows": []}
        return list(read["merged"]), [Row(*row) for row in read["rows"]]

    def _replace(self, name: str, value: dict[str, object]) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        written = self._folder / f"{name}{_HALF}"
        written.write_text(json.dumps({"format": _FORMAT, **value}, separators=(",", ":")))
        written.replace(self._folder / name)


def summed(rows: Iterable[Row]) -> list[Row]:
    """Return one row where several count the same; leaves the given ones as they are."""
    sums: dict[tuple[str, int, str], Row] = {}
    for row in rows:
        total = sums.setdefault(
            row.key, Row(row.instance_id, row.status, row.way, [0] * len(row.buckets))
        )
        total.buckets = [a + b for a, b in zip(total.buckets, row.buckets, strict=True)]
        total.seconds += row.seconds
        total.changed_at = max(total.changed_at, row.changed_at)
    return list(sums.values())


def _listed(rows: Iterable[Row]) -> list[object]:
    return [
        [row.instance_id, row.status, row.way, row.buckets, row.seconds, row.changed_at]
        for row in rows
    ]


def _snapshot(read: dict[str, Any]) -> Snapshot:
    return Snapshot(**{**read, "rows": [Row(*row) for row in read["rows"]]})


def _read(path: Path) -> dict[str, Any] | None:
    try:
        read: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:  # its process has ended, and is in the sums now
        return None
    return read if read.pop("format", None) == _FORMAT else None


def _lives(name: str) -> bool:
    """Say whether the folder's name is the pid of a living process."""
    if not name.isdecimal():
        return False
    try:
        os.kill(int(name), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
