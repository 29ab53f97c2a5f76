"""Run directories of what has ended: for how long they stay, and how much their logs may take."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from shared.store import KEEP_ENDED_S
from workers.run_directory import RunDirectory

log = logging.getLogger(__name__)


class OldRuns:
    """Sweeps the run directories of a node.

    Args:
        engines_dir: where they are.
        most_bytes: of all logs of the node; those of engines that live are never touched.
    """

    def __init__(self, engines_dir: Path, most_bytes: int) -> None:
        self._engines_dir = engines_dir
        self._most_bytes = most_bytes

    def sweep(self, in_use: Collection[str], now: float) -> None:
        """Remove what ended a day ago, and, where all logs take too much, the oldest logs.

        Args:
            in_use: instances that are looked after; who holds a lock is in use, too.
            now: epoch seconds, by this machine's clock.
        """
        if not self._engines_dir.is_dir():
            return
        over = []
        taken = 0
        for path in self._engines_dir.iterdir():
            try:
                run = RunDirectory(path)
                if path.name not in in_use and run.lock_holder() is None:
                    if _is_old(run, now):
                        shutil.rmtree(path, ignore_errors=True)
                        continue
                    over.append(run)
                taken += run.log_bytes
            except OSError as error:  # somebody else's, or gone meanwhile
                log.debug("%s is left alone: %s", path, error)
        for run in sorted(over, key=lambda run: run.logged_at):
            if taken <= self._most_bytes:
                return
            if freed := run.log_bytes:
                log.info("%s: its log of %d bytes goes: NODE_LOG_MIB", run.path.name, freed)
                run.forget_runs_before(max(run.runs()) + 1)
                taken -= freed


def _is_old(run: RunDirectory, now: float) -> bool:
    ages = [run.age_of(name, now) for name in ("manifest", "exit", "launch")]
    return ages != [None] * 3 and all(age is None or age > KEEP_ENDED_S for age in ages)
