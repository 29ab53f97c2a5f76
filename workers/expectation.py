"""When this node's starts will be ready: asks the store what earlier ones took, and tells it."""

from __future__ import annotations

from pathlib import Path

from shared.domain.eta import kind_of_start
from shared.domain.instance import Instance
from shared.domain.node import Gpu
from shared.store import Store
from workers.loading import Loading
from workers.process_tree import PROC


class Expectation:
    """What this node expects of its starts.

    Args:
        store: keeps what starts took, for all nodes with devices of the same kind.
        gpus: this node's.
    """

    def __init__(self, store: Store, gpus: tuple[Gpu, ...]) -> None:
        self._store = store
        self._names = {gpu.uuid: gpu.name for gpu in gpus}
        self._processor = _processor(PROC / "cpuinfo")

    def ready_at(self, record: Instance, loading: Loading, age_s: float) -> float | None:
        """Return when a start will be ready, epoch seconds; None if nobody can say.

        Raises:
            StoreUnavailable: only at the first call for a start.
        """
        if record.started_at is None:
            return None
        if loading.past is None:
            loading.past = tuple(self._store.past_starts(self._kind(record)))
        seconds = loading.expected(age_s)
        return None if seconds is None else round(record.started_at + seconds, 1)

    def learn(self, record: Instance, loading: Loading, age_s: float) -> None:
        """Remember what a start took that is ready now.

        Raises:
            StoreUnavailable: it is not remembered.
        """
        stages = {stage: round(began, 1) for stage, began in loading.stages.items()}
        self._store.record_start(self._kind(record), round(age_s, 1), stages)

    def _kind(self, record: Instance) -> str:
        devices = [self._names.get(uuid, uuid) for uuid in record.gpus] or [self._processor]
        return kind_of_start(record.model_name, record.params, devices)


def _processor(cpuinfo: Path) -> str:
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "cpu"
