"""One engine's folder on its node: what it was started with, how it ended, its log, its lock.

    RUN_DIR/engines/INSTANCE_ID/
        manifest.json  the record as this node last knew it: see workers.manifest
        launch.json    command, environment, port, key: written before the shim is spawned
        state.json     pids and start times: written by the shim once the engine is spawned
        stop.json      why it was told to stop: written before SIGTERM
        exit.json      how the engine's first process ended: written by the shim
        run-N.log      and run-N.log.1: the output of the N-th spawn, by the shim
        run-N.shim.log what its shim had to say itself: nothing, if all is well
        shipped.json   how much of the log the worker has sent on
        lock           held by the shim while it lives
        work/          the engine's current directory, and its mark: see workers.process_tree

An engine is spawned again after a crash. launch, state, stop and exit hold the number of the `run`
they speak of, and are read for one run, so that the end of the run before is never taken for the
end of this one. Logs are kept of the last two runs.

Standard library only: the shim runs on it and must start in no time.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workers import json_file
from workers.process_tree import WORK

_OF_RUN = re.compile(r"run-(\d+)\.")
_FLOCK = "hhqqi4x"  # struct flock on 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths of one engine's folder, and its small JSON files, each replaced in one step."""

    path: Path
    # name → which file it was, and what it held: an idle engine's are asked for at every look
    _held: dict[str, tuple[tuple[int, int, int], dict[str, Any] | None]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def log(self, run: int) -> Path:
        """Return where the output of a run goes, newest part."""
        return self.path / f"run-{run}.log"

    def old_log(self, run: int) -> Path:
        """Return where the part before it is, once the log has been rotated."""
        return self.path / f"run-{run}.log.1"

    def shim_log(self, run: int) -> Path:
        """Return where the shim of a run says what ended it."""
        return self.path / f"run-{run}.shim.log"

    def runs(self) -> list[int]:
        """Return the numbers of the runs whose logs are kept, oldest first."""
        found = {
            int(match[1])
            for path in (self.path.iterdir() if self.path.is_dir() else ())
            if (match := _OF_RUN.match(path.name))
        }
        return sorted(found)

    @property
    def log_bytes(self) -> int:
        """How much the logs of all kept runs take."""
        return sum(stat.st_size for stat in self._logs())

    @property
    def logged_at(self) -> float:
        """When a line was last written to a log, epoch seconds; 0.0 where there is none."""
        return max((stat.st_mtime for stat in self._logs()), default=0.0)

    def forget_runs_before(self, run: int) -> None:
        """Remove the logs of the runs before `run`."""
        for path in list(self.path.iterdir()):
            if (match := _OF_RUN.match(path.name)) and int(match[1]) < run:
                path.unlink(missing_ok=True)

    @property
    def work(self) -> Path:
        """The engine's current directory; nothing but the engine's tree has it."""
        return self.path / WORK

    def make(self) -> None:
        """Make the folder; nobody but its owner may look inside: launch.json holds a key."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.work.mkdir(mode=0o700, exist_ok=True)

    def read(self, name: str, run: int | None = None) -> dict[str, Any] | None:
        """Return what `name`.json holds; None if it was never written or holds no JSON object.

        Not to be changed: who asks next gets the same, unless the file has been replaced.

        Args:
            name: of the file.
            run: where given, None too if the file speaks of another run.
        """
        found = self._holds(name)
        if found is None or run is None:
            return found
        return found if found.get("run", 0) == run else None

    def write(self, name: str, value: Mapping[str, object]) -> None:
        """Replace `name`.json: whole and on disk, or not at all.

        Raises:
            OSError: as on a full disk.
        """
        json_file.write(self._json(name), value)

    def remove(self, *names: str) -> None:
        """Remove these JSON files, where they are."""
        for name in names:
            (self.path / f"{name}.json").unlink(missing_ok=True)

    def age_of(self, name: str, now: float) -> float | None:
        """Return how many seconds ago `name`.json was written; None if never."""
        try:
            return now - self._json(name).stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None

    def take_lock(self) -> bool:
        """Hold the lock until this process ends; return False if another process holds it."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        return True  # the descriptor stays open on purpose: closing it would let go

    def lock_holder(self) -> int | None:
        """Return the pid that holds the lock; only asks, so it can never get in the way."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, question)
        finally:
            os.close(descriptor)
        kind, _, _, _, pid = struct.unpack(_FLOCK, answer)
        return None if kind == fcntl.F_UNLCK else int(pid)

    def _logs(self) -> list[os.stat_result]:
        found = []
        for path in list(self.path.iterdir()) if self.path.is_dir() else ():
            if _OF_RUN.match(path.name):
                with suppress(FileNotFoundError):  # it was rotated, or its run is forgotten
                    found.append(path.stat())
        return found

    def _holds(self, name: str) -> dict[str, Any] | None:
        path = f"{self.path}/{name}.json"  # asked for tens of times at each look: a Path is dear
        try:
            stat = os.stat(path)  # noqa: PTH116 - half the time
        except (FileNotFoundError, NotADirectoryError):
            self._held.pop(name, None)
            return None
        which = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if name not in self._held or self._held[name][0] != which:
            self._held[name] = (which, json_file.read(Path(path)))
        return self._held[name][1]

    def _json(self, name: str) -> Path:
        return self.path / f"{name}.json"
