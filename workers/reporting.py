"""What this node tells with heartbeats, looked up in threads: a driver or a disk may be slow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from pathlib import Path
from time import monotonic
from typing import Generic, TypeVar

import pynvml

from shared.domain.instance import Instance, Status
from shared.domain.node import Gpu, GpuMemory, Load, NodeReport
from shared.domain.wanted import WHOLE
from workers import process_tree
from workers.gpus import memory_of
from workers.prober import Prober
from workers.weights import held_models

_WOBBLE_MIB = 32  # of free memory: not worth telling
_SCAN_S = 30.0  # between looks for weights
_ALLOCATED = frozenset({Status.RUNNING, Status.UNHEALTHY, Status.STOPPING})

R = TypeVar("R")

log = logging.getLogger(__name__)


class Reporting:
    """Gathers what is to be told, and says it only where it has changed.

    Args:
        gpus: of this node.
        engines_dir: where its run directories are.
        models_dir: MODELS_DIR.
        hub: where huggingface_hub keeps files for its engines.
        prober: whose threads look things up.
    """

    def __init__(
        self,
        gpus: tuple[Gpu, ...],
        *,
        engines_dir: Path,
        models_dir: Path,
        hub: Path,
        prober: Prober,
    ) -> None:
        self._gpus = gpus
        self._engines_dir = engines_dir
        self._places = models_dir, hub
        self._memory: _Looked[Mapping[str, GpuMemory]] = _Looked({}, prober)
        self._models: _Looked[frozenset[str]] = _Looked(frozenset(), prober)
        self._models_at: float | None = None
        self._told: NodeReport | None = None

    def tell_anew(self) -> None:
        """Hear that the store has no report of this node (any more)."""
        self._told = None

    @property
    def waits_to_tell(self) -> bool:
        """Whether what is looked up first has not been told yet."""
        return self._memory.is_first or self._models.is_first

    def news(self, records: Collection[Instance], loads: Mapping[str, Load]) -> NodeReport | None:
        """Return what is to be told now; None if that is what was told last.

        Begins to look up what the next report says.

        Args:
            records: of this node's instances.
            loads: what its engines last said, by instance id.
        """
        running = [record for record in records if _is_allocated(record)]
        report = NodeReport(
            memory=settled(self._memory.found, self._told.memory if self._told else {}),
            loads={r.instance_id: loads.get(r.instance_id, Load(0, 0)) for r in running},
            models=self._models.found,
        )
        self._look_up(running)
        return None if report == self._told else report

    def told(self, report: NodeReport | None) -> None:
        """Hear that the store has it."""
        self._told = report or self._told

    def _look_up(self, running: Collection[Instance]) -> None:
        if self._gpus:
            expected: dict[str, int] = {}
            totals = {gpu.uuid: gpu.total_mib for gpu in self._gpus}
            for record in running:
                for uuid, share in record.shares.items():
                    expected[uuid] = expected.get(uuid, 0) + totals.get(uuid, 0) * share // WHOLE
            self._memory.look(lambda: self._look_at_memory(expected))
        now = monotonic()
        if self._models_at is None or now - self._models_at > _SCAN_S:
            self._models_at = now
            self._models.look(lambda: held_models(*self._places))

    def _look_at_memory(self, expected: Mapping[str, int]) -> Mapping[str, GpuMemory]:
        own = {pid for pids in process_tree.marked(self._engines_dir).values() for pid in pids}
        try:
            return memory_of(self._gpus, own, expected)
        except pynvml.NVMLError as error:
            log.warning("the driver does not say what is free: %s", error)
            return {gpu.uuid: GpuMemory(None) for gpu in self._gpus}


class _Looked(Generic[R]):
    """What was last found by looking in a thread; one look at a time."""

    def __init__(self, nothing: R, prober: Prober) -> None:
        self._last = nothing
        self._prober = prober
        self._future: Future[R] | None = None
        self.is_first = True  # nothing was found yet

    @property
    def found(self) -> R:
        if self._future is not None and self._future.done():
            if error := self._future.exception():
                log.error("could not be looked up", exc_info=error)
            else:
                self._last = self._future.result()
            self._future, self.is_first = None, False
        return self._last

    def look(self, question: Callable[[], R]) -> None:
        if self._future is None:
            self._future = self._prober.submit(question)


def _is_allocated(record: Instance) -> bool:
    """Return whether its engine has taken its memory: it has been ready in this run."""
    return record.ready_at is not None and record.status in _ALLOCATED


def settled(
    found: Mapping[str, GpuMemory], told: Mapping[str, GpuMemory]
) -> Mapping[str, GpuMemory]:
    """Return what was found, but as it was told where it has hardly changed."""
    return {
        uuid: before if (before := told.get(uuid)) and _is_close(now, before) else now
        for uuid, now in found.items()
    }


def _is_close(one: GpuMemory, other: GpuMemory) -> bool:
    if one.free_mib is None or other.free_mib is None:
        return one == other
    free, foreign = one.free_mib - other.free_mib, one.foreign_mib - other.foreign_mib
    return max(abs(free), abs(foreign)) < _WOBBLE_MIB
