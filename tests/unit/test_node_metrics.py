"""Nodes and GPUs as Prometheus is told of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shared.domain.node import Claim, Node
from tests.builders import a_gpu, a_node
from web.metrics.nodes import NodeMetrics, state_of

MIB = 2**20
Shown = dict[tuple[str, ...], float]


def shown(*nodes: Node) -> dict[str, Shown]:
    """Return metric → label values → value."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeMetrics(nodes))
    found: dict[str, Shown] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            of = tuple(sample.labels[name] for name in sorted(sample.labels, reverse=True))
            found.setdefault(sample.name, {})[of] = sample.value
    return found


def what_there_is(of: Shown) -> Shown:
    """Return what is not none."""
    return {labels: value for labels, value in of.items() if value}


def test_each_node_counts_in_one_state() -> None:
    nodes = (
        a_node(),
        a_node(name="two", cordoned=True),
        a_node(name="three", cordoned=True, draining=True),
        a_node(name="four", cordoned=True, heartbeat_age_s=None),
        a_node(name="five", heartbeat_age_s=16.0),
    )
    assert shown(*nodes)["fleet_nodes"] == {
        ("alive",): 1, ("cordoned",): 1, ("draining",): 1, ("lost",): 2,
    }  # fmt: skip
    assert [state_of(node) for node in nodes[2:]] == ["draining", "lost", "lost"]


def test_gpus_and_their_memory_are_added_up() -> None:
    told = replace(a_gpu(0), total_mib=1000, free_mib=300, foreign_mib=50)
    untold = replace(a_gpu(1), total_mib=1000, free_mib=None, foreign_mib=100)
    fake = replace(a_gpu(2), uuid="SIM-two-0", total_mib=500, free_mib=500, simulated=True)
    claims = (
        Claim(instance_id="i1", shares={"GPU-0": 450, "GPU-1": 250}),
        Claim(instance_id="i2", shares={"GPU-0": 450}),
    )
    seen = shown(
        a_node(gpus=(told, untold), claims=claims),
        a_node(name="two", gpus=(fake,), heartbeat_age_s=None),
    )
    real, lost = ("alive", "false"), ("lost", "true")
    assert what_there_is(seen["fleet_gpus"]) == {real: 2, lost: 1}
    assert what_there_is(seen["fleet_gpus_claimed"]) == {real: pytest.approx(1.15)}
    assert what_there_is(seen["fleet_gpu_memory_bytes"]) == {real: 2000 * MIB, lost: 500 * MIB}
    free = what_there_is(seen["fleet_gpu_memory_free_bytes"])
    assert free == {real: (300 + 650) * MIB, lost: 500 * MIB}
    assert what_there_is(seen["fleet_gpu_memory_foreign_bytes"]) == {real: 150 * MIB}


def test_there_are_as_many_series_however_many_nodes_there_are() -> None:
    many = [a_node(name=f"n{number}", gpus=(a_gpu(0),)) for number in range(100)]
    sizes = [{name: len(of) for name, of in shown(*nodes).items()} for nodes in ([], many)]
    assert sizes[0] == sizes[1]
    assert sum(sizes[0].values()) == 44
