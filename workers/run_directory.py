"""One engine's folder on its node: what it was started with, how it ended, its log, its lock.

    RUN_DIR/engines/INSTANCE_ID/
        launch.json   command, environment, port, key: written before the shim is spawned
        state.json    pids and start times: written by the shim once the engine is spawned
        stop.json     why it was told to stop: written before SIGTERM
        exit.json     how the engine's first process ended: written by the shim
        engine.log    and engine.log.1, by the shim
        shipped.json  how much of the log the worker has sent on
        lock          held by the shim while it lives
        work/         the engine's current directory, and its mark: see workers.process_tree

Standard library only: the shim runs on it and must start in no time.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FLOCK = "hhqqi4x"  # struct flock on 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths of one engine's folder, and its small JSON files, each replaced in one step."""

    path: Path

    @property
    def log(self) -> Path:
        """The engine's output, newest part."""
        return self.path / "engine.log"

    @property
    def old_log(self) -> Path:
        """The part before it, once the log has been rotated."""
        return self.path / "engine.log.1"

    @property
    def work(self) -> Path:
        """The engine's current directory; nothing but the engine's tree has it."""
        return self.path / "work"

    def make(self) -> None:
        """Make the folder; nobody but its owner may look inside: launch.json holds a key."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.work.mkdir(mode=0o700, exist_ok=True)

    def read(self, name: str) -> dict[str, Any] | None:
        """Return what `name`.json holds, or None if it was never written."""
        try:
            text = (self.path / f"{name}.json").read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None
        found = json.loads(text)
        return found if isinstance(found, dict) else None

    def write(self, name: str, value: Mapping[str, object]) -> None:
        """Replace `name`.json: whole and on disk, or not at all."""
        draft = self.path / f"{name}.json.new"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self.path / f"{name}.json")

    def age_of(self, name: str, now: float) -> float | None:
        """Return how many seconds ago `name`.json was written; None if never."""
        try:
            return now - (self.path / f"{name}.json").stat().st_mtime
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
