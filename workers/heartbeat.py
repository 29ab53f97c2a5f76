"""Says that this node lives and how it is, and hears what an operator asks of it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic

from shared.domain.drain import BY_DRAIN, leaves, why_it_leaves
from shared.domain.instance import Instance
from shared.domain.node import HEARTBEAT_S, Load, Node
from shared.errors import RecordUnreadable
from shared.store import Beat, Store
from workers import manifest, process_tree
from workers.reporting import Reporting

_FIRST_TOLD_S = 0.5  # after the first beat: by then it is known what is free

log = logging.getLogger(__name__)


class Heartbeat:
    """Announces the node and beats for it. Only the supervisor's thread calls it.

    Args:
        node: as it is to be announced.
        store: to be told.
        run_dir: RUN_DIR; keeps what a store that was emptied has to be told again.
        reporting: what is told of the node.
    """

    def __init__(self, node: Node, store: Store, run_dir: Path, reporting: Reporting) -> None:
        self._node = node
        self._store = store
        self._run_dir = run_dir
        self._reporting = reporting
        self._epoch = 0
        self._cordon = manifest.last_cordon(run_dir)
        self._beat_at: float | None = None  # None: at once
        self._drained_since: float | None = None

    def announce(self) -> int:
        """Register the node, silent as yet; return its epoch.

        Raises:
            Conflict: the node's name belongs to another living worker.
            StoreUnavailable: to be tried again.
        """
        holder = f"{process_tree.boot_id()}:{self._run_dir}"
        last = max(self._epoch, manifest.last_epoch(self._run_dir))
        cordoned, draining = bool(self._cordon), self._cordon == Beat.DRAINING
        node = replace(self._node, cordoned=cordoned, draining=draining)
        self._epoch = self._store.announce(node, holder, last_epoch=last, beating=False)
        self._keep()
        self._reporting.tell_anew()
        return self._epoch

    def hasten(self) -> None:
        """Have the next beat be due at once."""
        self._beat_at = None

    @property
    def due_in_s(self) -> float:
        """In how many seconds the next beat is due; 0: now."""
        if self._beat_at is None:
            return 0.0
        interval = _FIRST_TOLD_S if self._reporting.waits_to_tell else HEARTBEAT_S
        return max(0.0, self._beat_at + interval - monotonic())

    def beat(self, records: Collection[Instance], loads: Mapping[str, Load]) -> Beat:
        """Say that the node lives, and what has changed of it; return what the store makes of it.

        Args:
            records: of this node's instances, as they were at the last look.
            loads: what its engines last said, by instance id.
        """
        news = self._reporting.news(records, loads)
        said = self._store.heartbeat(self._node.name, self._epoch, news)
        if said in (Beat.OK, Beat.CORDONED, Beat.DRAINING):
            self._beat_at = monotonic()
            self._reporting.told(news)
            self._hear("" if said is Beat.OK else said)
        return said

    def have_leave(self, records: Collection[Instance]) -> None:
        """Ask those instances to stop that are to leave a draining node."""
        if self._drained_since is None:
            return
        drained_for_s = monotonic() - self._drained_since
        for record in records:
            if leaves(record, drained_for_s):
                reason = why_it_leaves(self._node.name)
                with suppress(RecordUnreadable):  # since the last look; the store has said it
                    self._store.stop(
                        record.instance_id, reason=reason, by=BY_DRAIN, who=self._node.name
                    )

    def _hear(self, cordon: str) -> None:
        if cordon == Beat.DRAINING:
            self._drained_since = self._drained_since or monotonic()
        else:
            self._drained_since = None
        if cordon != self._cordon:
            log.info("node %s: %s by an operator", self._node.name, cordon or "back in service")
            self._cordon = cordon
            self._keep()

    def _keep(self) -> None:
        try:
            manifest.keep_node(self._run_dir, self._epoch, self._cordon)
        except OSError as error:
            log.error("epoch %d could not be kept: %s", self._epoch, error)  # noqa: TRY400 - said
