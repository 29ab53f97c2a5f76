"""Keeps a node's records in its run directories, and writes back those that the store has lost."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from shared.domain.instance import RELEASED, Instance
from shared.domain.rebuild import Rebuilt, is_behind, rebuilt
from shared.errors import RecordUnreadable
from shared.store import KEEP_ENDED_S, Store
from workers import manifest
from workers.run_directory import RunDirectory

log = logging.getLogger(__name__)


class Recovery:
    """Compares a node's records with what its run directories have kept of them.

    Args:
        engines_dir: where the run directories are.
        node: this node's name.
        store: of the records.
    """

    def __init__(self, engines_dir: Path, node: str, store: Store) -> None:
        self.epoch = 0  # of the node, as it was last announced
        self.written_back: set[str] = set()  # ids, in the last `agree`
        self.refused = False  # the store would not take a record: it has lost the node, too
        self._engines_dir = engines_dir
        self._node = node
        self._store = store
        self._kept: dict[str, Instance] = {}  # what is on disk, by instance id
        self._settled: set[str] = set()  # directories of what has ended, as the store knows
        self._unkept: set[str] = set()  # said already that these cannot be kept

    def compare_anew(self) -> None:
        """Forget what has been compared: the store may have become another."""
        self._settled.clear()

    def agree(self, records: Collection[Instance]) -> list[Instance]:
        """Return the records of this node to act upon, once store and run directories agree.

        Those that the store lacks or has set back are written back first. One that cannot be is
        left out: nothing is decided upon a record that is known to be old.

        Raises:
            StoreUnavailable: try again.
        """
        self.refused = False
        self.written_back.clear()
        agreed = [found for record in records if (found := self._agreed(record))]
        placed = {record.instance_id for record in records}
        self._settled -= placed
        self._kept = {name: kept for name, kept in self._kept.items() if name in placed}
        unplaced = self._directories() - placed - self._settled
        return agreed + [back for name in sorted(unplaced) if (back := self._unplaced(name))]

    def keep_up(self, instance_id: str) -> None:
        """Keep a record that has just been changed, so that little can be lost of it.

        Raises:
            StoreUnavailable: what was kept before stays; the next `agree` sees to it.
        """
        record = self._store.get(instance_id)
        kept = self._kept.get(instance_id)
        if record is not None and (kept is None or record.revision > kept.revision):
            self._keep(record)

    def _agreed(self, record: Instance) -> Instance | None:
        name = record.instance_id
        kept = self._kept.get(name) or manifest.kept(self._run(name))
        if kept is not None and is_behind(record, kept):
            # From disk, where the last spawn is, too.
            return self._write_back(manifest.kept(self._run(name)) or kept, record)
        if kept is None or record.revision > kept.revision:
            self._keep(record)
        else:
            self._kept[name] = kept
        return record

    def _unplaced(self, name: str) -> Instance | None:
        kept = manifest.kept(self._run(name))
        if kept is None:  # nothing to go by: `workers.orphans` sees to what runs
            self._settled.add(name)
            return None
        try:
            found = self._store.get(name)
        except RecordUnreadable:  # it may be newer than what is kept: nothing is written over it
            return None
        if found is not None and found.node not in ("", self._node):
            log.warning("instance %s: its record is of node %s; left alone", name, found.node)
        elif found is None or is_behind(found, kept):
            if back := self._write_back(replace(kept, node=self._node), found):
                return back
        elif found.status in RELEASED:
            if found.revision > kept.revision:
                self._keep(found)
        else:
            lost = Rebuilt(record=found, reason=f"the store had forgotten that {self._node} has it")
            return self._restored(lost, found)
        if not self.refused:
            self._settled.add(name)
        return None

    def _write_back(self, kept: Instance, found: Instance | None) -> Instance | None:
        what = rebuilt(kept, found, now=self._store.now(), keep_ended_s=KEEP_ENDED_S)
        return self._restored(what, found) if what else None

    def _restored(self, what: Rebuilt, found: Instance | None) -> Instance | None:
        name = what.record.instance_id
        over = None if found is None else found.revision
        if not self._store.restore(what.record, epoch=self.epoch, over=over, reason=what.reason):
            self.refused = True
            return None
        self.written_back.add(name)
        log.warning("instance %s: %s", name, what.reason)
        back = self._store.get(name)
        if back is None:
            return None
        self._keep(back)
        return None if back.ended else back

    def _keep(self, record: Instance) -> None:
        name = record.instance_id
        try:
            manifest.keep(self._run(name), record)
        except OSError as error:
            if name not in self._unkept:
                log.error("instance %s: its record could not be kept: %s", name, error)  # noqa: TRY400
            self._unkept.add(name)
            return
        self._unkept.discard(name)
        self._kept[name] = record

    def _run(self, name: str) -> RunDirectory:
        return RunDirectory(self._engines_dir / name)

    def _directories(self) -> set[str]:
        if not self._engines_dir.is_dir():
            return set()
        return {path.name for path in self._engines_dir.iterdir() if path.is_dir()}
