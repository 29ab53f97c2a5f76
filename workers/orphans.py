"""Engines that run on this node and that neither it nor the store has a record of.

A missing record is no reason to kill what works: such an engine is reported, and ended only where
a record says that it is over, or when nobody has claimed it for ORPHAN_GRACE.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from shared.domain.instance import RELEASED
from shared.domain.node import Orphan
from shared.errors import RecordUnreadable
from shared.store import Store
from workers import manifest, process_tree
from workers.run_directory import RunDirectory

_KILL_S = 1.0  # one turn; the next scan comes back to what is left

log = logging.getLogger(__name__)


class Orphans:
    """Scans the process table for them.

    Args:
        engines_dir: where this node's run directories are.
        store: to be asked about what is not placed on this node.
        grace_s: after which one that nobody knows is ended.
    """

    def __init__(self, engines_dir: Path, store: Store, grace_s: float) -> None:
        self._engines_dir = engines_dir
        self._store = store
        self._grace_s = grace_s
        self._first_seen: dict[str, float] = {}  # monotonic: a clock set forward reaps nobody

    def scan(self, placed: Collection[str], now: float, at: float) -> list[Orphan]:
        """End what is over, and what has been unknown for too long; return what is unknown.

        Args:
            placed: instances of this node that are looked after.
            now: seconds by a monotonic clock.
            at: the same moment in epoch seconds, to be told.

        Raises:
            StoreUnavailable: nothing is ended without asking.
        """
        marked = process_tree.marked(self._engines_dir)
        unknown = []
        for name in marked.keys() - set(placed):
            over = self._is_over(name)
            if over:
                self._reap(name, "its record says that it has ended")
            elif over is None and (orphan := self._unclaimed(name, marked[name], now, at)):
                unknown.append(orphan)
        found = {orphan.instance_id for orphan in unknown}
        self._first_seen = {name: at for name, at in self._first_seen.items() if name in found}
        return sorted(unknown, key=lambda orphan: orphan.instance_id)

    def _is_over(self, name: str) -> bool | None:
        """Return whether an instance has ended; None if there is no record of it anywhere."""
        run = RunDirectory(self._engines_dir / name)
        try:
            record = self._store.get(name) or manifest.kept(run)
        except RecordUnreadable:  # somebody knows it: it is left alone
            return False
        return None if record is None else record.status in RELEASED

    def _unclaimed(self, name: str, pids: set[int], now: float, at: float) -> Orphan | None:
        if name not in self._first_seen:
            log.warning(
                "pids %s are of an instance %s that nobody has a record of: "
                "they are ended in %g s (ORPHAN_GRACE) unless one turns up",
                sorted(pids), name, self._grace_s,
            )  # fmt: skip
        known_for = now - self._first_seen.setdefault(name, now)
        left = self._grace_s - known_for
        if left <= 0:
            self._reap(name, f"no record of it has turned up for {self._grace_s:g} s")
            return None
        since = at - known_for
        return Orphan(instance_id=name, pids=tuple(sorted(pids)), since=since, reaped_in_s=left)

    def _reap(self, name: str, why: str) -> None:
        log.warning("what runs of instance %s is ended: %s", name, why)
        left = process_tree.kill(
            lambda: process_tree.marked(self._engines_dir).get(name, set()), _KILL_S
        )
        if left:
            log.error("instance %s: pids %s resist SIGKILL", name, sorted(left))
