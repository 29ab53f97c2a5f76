"""Nodes and GPUs in `GET /metrics`: sums by state, as many series at 1,000 nodes as at one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import product

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from shared.domain.node import Gpu, Node
from shared.domain.wanted import WHOLE

_STATES = ("alive", "cordoned", "draining", "lost")
_KINDS = ("false", "true")  # of devices: simulated or not
_MIB = 2**20


class NodeMetrics(Collector):
    """What all nodes have together.

    Args:
        nodes: as last heard.
    """

    def __init__(self, nodes: Collection[Node]) -> None:
        self._nodes = nodes

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; their names and labels are a promise to dashboards."""
        states = [state_of(node) for node in self._nodes]
        yield _family(
            "fleet_nodes",
            "Nodes, each in one state.",
            ("state",),
            {(state,): float(states.count(state)) for state in _STATES},
        )
        devices = [
            ((state, str(gpu.simulated).lower()), gpu, node.held.get(gpu.uuid, 0))
            for state, node in zip(states, self._nodes, strict=True)
            for gpu in node.gpus
        ]
        yield _of_gpus(
            "fleet_gpus",
            "GPUs of all nodes, by the state of their node.",
            ((of, 1.0) for of, _, _ in devices),
        )
        yield _of_gpus(
            "fleet_gpus_claimed",
            "What instances hold of them; of one that is shared, the sum of the shares.",
            ((of, held / WHOLE) for of, _, held in devices),
        )
        yield _of_gpus(
            "fleet_gpu_memory_bytes",
            "Memory of all GPUs.",
            ((of, gpu.total_mib * _MIB) for of, gpu, _ in devices),
        )
        yield _of_gpus(
            "fleet_gpu_memory_free_bytes",
            "What is free of it by the drivers' word, or else what claims and others leave.",
            ((of, _free_mib(gpu, held) * _MIB) for of, gpu, held in devices),
        )
        yield _of_gpus(
            "fleet_gpu_memory_foreign_bytes",
            "What processes hold of it that are no engines of the fleet.",
            ((of, gpu.foreign_mib * _MIB) for of, gpu, _ in devices),
        )


def state_of(node: Node) -> str:
    """Return the one state that a node counts in: the one that matters most for placing."""
    if node.lost:
        return "lost"
    if node.draining:
        return "draining"
    return "cordoned" if node.cordoned else "alive"


def _free_mib(gpu: Gpu, held: int) -> float:
    if gpu.free_mib is not None:
        return gpu.free_mib
    return max(0.0, gpu.total_mib * (1 - held / WHOLE) - gpu.foreign_mib)


def _of_gpus(name: str, doc: str, told: Iterable[tuple[tuple[str, str], float]]) -> Metric:
    sums: dict[tuple[str, ...], float] = dict.fromkeys(product(_STATES, _KINDS), 0.0)
    for of, value in told:
        sums[of] += value
    return _family(name, doc, ("state", "simulated"), sums)


def _family(
    name: str, doc: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]
) -> Metric:
    family = GaugeMetricFamily(name, doc, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family
