"""Where a new instance goes, and why it goes nowhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.node import LOST_AFTER_S, Claim, Node
from shared.domain.placement import Placement, Rule, choose_placement, verdicts
from shared.domain.wanted import Wanted
from shared.errors import NoCapacity
from tests.builders import a_gpu, a_node


def claims(number: int, *gpus: str) -> tuple[Claim, ...]:
    """Return that many claims; the first holds `gpus`."""
    return tuple(
        Claim(instance_id=f"i{index}", shares=dict.fromkeys(gpus, 1000) if index == 0 else {})
        for index in range(number)
    )


def gpu_node(name: str, gpus: int, *held: str) -> Node:
    """Return a node with that many devices, of which one instance holds `held`."""
    return a_node(
        name=name,
        max_instances=20,
        gpus=tuple(a_gpu(index) for index in range(gpus)),
        claims=claims(1, *held) if held else (),
    )


def test_an_engine_takes_one_mig_device_at_most() -> None:
    parts = tuple(replace(a_gpu(index), uuid=f"MIG-{index}") for index in range(3))
    node = a_node(gpus=(*parts, a_gpu(3)))
    assert choose_placement([node], Wanted(gpus=1)).gpus == ("MIG-0",)
    assert verdicts([node], Wanted(gpus=2)) == {
        "one": "has 1 whole GPUs, 2 needed: 3 are MIG devices, of which an engine takes one at most"
    }
    two = replace(node, gpus=(*node.gpus, a_gpu(4)))
    assert choose_placement([two], Wanted(gpus=2)).gpus == ("GPU-3", "GPU-4")


def test_the_fullest_gpu_node_that_fits_is_chosen() -> None:
    nodes = [gpu_node("empty", 8), gpu_node("fuller", 8, "GPU-0", "GPU-1"), gpu_node("small", 1)]
    assert choose_placement(nodes, Wanted(gpus=2)) == Placement(
        node="fuller", shares={"GPU-2": 1000, "GPU-3": 1000}
    )


def test_gpus_are_taken_in_order_and_none_that_is_held() -> None:
    assert choose_placement([gpu_node("a", 4, "GPU-0", "GPU-2")], Wanted(gpus=2)).gpus == (
        "GPU-1",
        "GPU-3",
    )


def test_a_gpu_node_comes_before_one_without() -> None:
    assert choose_placement([a_node(name="cpu"), gpu_node("gpu", 8)], Wanted(gpus=1)).node == "gpu"


def test_without_gpus_the_emptiest_node_is_chosen() -> None:
    nodes = [
        a_node(name="a", claims=claims(2)),
        a_node(name="b", claims=claims(1)),
        a_node(name="c", claims=claims(3)),
    ]
    assert choose_placement(nodes, Wanted(gpus=1)) == Placement(node="b")


def test_equals_are_decided_by_name() -> None:
    assert choose_placement([a_node(name="b"), a_node(name="a")], Wanted(gpus=1)).node == "a"


@pytest.mark.parametrize("age", [None, LOST_AFTER_S + 0.1])
def test_nothing_is_placed_on_a_lost_node(age: float | None) -> None:
    nodes = [a_node(name="a", heartbeat_age_s=age), a_node(name="b", claims=claims(2))]
    assert choose_placement(nodes, Wanted(gpus=1)).node == "b"


def test_a_node_that_beat_in_time_is_not_lost() -> None:
    assert not a_node(heartbeat_age_s=LOST_AFTER_S).lost


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (a_node(heartbeat_age_s=None), "one is lost: its worker sends no heartbeat"),
        (a_node(claims=claims(3)), "one runs 3 of at most 3 instances"),
        (a_node(max_instances=0), "one takes no instances: its VLLM_MAX_INSTANCES is 0"),
        (a_node(cordoned=True), "one is cordoned: it takes no new instances"),
        (a_node(cordoned=True, draining=True), "one is drained: it takes no new instances"),
        (gpu_node("small", 2), "small has 2 GPUs, 4 needed"),
        (
            gpu_node("big", 4, "GPU-0"),
            "big has 3 of 4 GPUs with room, 4 needed: GPU 0 has 1 of it claimed",
        ),
    ],
)
def test_a_refusal_says_why_for_the_node(node: Node, why: str) -> None:
    with pytest.raises(NoCapacity, match=f"^no node has room: {why}$"):
        choose_placement([node], Wanted(gpus=4))


def test_a_refusal_names_every_node() -> None:
    nodes = [a_node(name="b", heartbeat_age_s=None), a_node(name="a", claims=claims(3))]
    with pytest.raises(NoCapacity, match=r"room: a runs 3 .*; b is lost"):
        choose_placement(nodes, Wanted(gpus=1))


def test_an_empty_fleet_says_that_no_worker_has_registered() -> None:
    with pytest.raises(NoCapacity, match="no worker has registered"):
        choose_placement([], Wanted(gpus=1))


def test_a_node_that_holds_more_than_it_may_has_no_free_slots() -> None:
    assert a_node(max_instances=1, claims=claims(2)).free_slots == 0


@given(
    st.lists(
        st.builds(
            lambda name, gpus, held, most, age: a_node(
                name=name,
                gpus=tuple(a_gpu(index) for index in range(gpus)),
                claims=claims(held, *(f"GPU-{index}" for index in range(held))),
                max_instances=most,
                heartbeat_age_s=age,
            ),
            st.sampled_from("abcdef"),
            st.integers(0, 4),
            st.integers(0, 3),
            st.integers(0, 4),
            st.sampled_from([None, 0.0, 99.0]),
        ),
        unique_by=lambda node: node.name,
    ),
    st.integers(1, 4),
)
def test_a_placement_always_fits_its_node(nodes: list[Node], gpu_count: int) -> None:
    try:
        place = choose_placement(nodes, Wanted(gpus=gpu_count))
    except NoCapacity:
        return
    node = next(node for node in nodes if node.name == place.node)
    assert not node.lost
    assert node.free_slots > 0
    assert set(place.gpus) <= {gpu.uuid for gpu in node.free_gpus}
    assert len(place.gpus) == (gpu_count if node.gpus else 0)


def shared_gpu(held: int, **of_gpu: Any) -> Node:
    """Return a node with one device of 80,000 MiB, of which an instance holds `held`."""
    gpu = replace(a_gpu(0), total_mib=80_000, **of_gpu)
    held_by = (Claim(instance_id="i0", shares={"GPU-0": held}),) if held else ()
    return a_node(gpus=(gpu,), claims=held_by)


@pytest.mark.parametrize(
    ("node", "share", "why"),
    [
        (shared_gpu(500), 0.5, None),
        (shared_gpu(500), 0.501, "GPU 0 has 0.5 of it claimed"),
        (shared_gpu(0, free_mib=79_000), 0.9, None),
        (shared_gpu(0, free_mib=79_000), 1.0, "GPU 0 has 79000 of 80000 MiB left, 80000 needed"),
        (
            shared_gpu(0, free_mib=30_000, foreign_mib=50_000),
            0.5,
            "30000 of 80000 MiB left, 40000 needed, 50000 MiB held by other processes",
        ),
        # The first one has just been claimed, and its engine has allocated nothing yet.
        (shared_gpu(400, free_mib=70_000, foreign_mib=10_000), 0.5, "38000 of 80000 MiB left"),
        (shared_gpu(400, free_mib=70_000, foreign_mib=10_000), 0.47, None),
        # It takes more than its share; the driver knows.
        (shared_gpu(400, free_mib=30_000), 0.5, "30000 of 80000 MiB left, 40000 needed"),
        (shared_gpu(400, free_mib=None), 0.5, None),
    ],
)
def test_a_gpu_is_shared_while_shares_and_driver_allow(
    node: Node, share: float, why: str | None
) -> None:
    told = verdicts([node], Wanted(gpus=1, share=share))["one"]
    assert told is None if why is None else why in str(told)


def test_three_thirds_fit_on_one_gpu() -> None:
    third = Wanted(share=0.3333)
    node = shared_gpu(2 * third.thousandths)
    assert choose_placement([node], third).shares == {"GPU-0": 333}


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (Wanted(node="two"), "is not the node that is wanted, two"),
        (Wanted(labels={"zone": "a"}), "it has no label zone, zone=a is wanted"),
        (Wanted(labels={"disk": "slow"}), "its label disk is fast, disk=slow is wanted"),
        (Wanted(on_gpus=False), "has GPUs, a node without is wanted"),
        (Wanted(uuids=("GPU-9",)), "does not have GPU-9"),
        (Wanted(uuids=("GPU-0",)), "has 0 of 2 GPUs with room, 1 needed: GPU 0 has 1 of it"),
        (Wanted(node="one", labels={"disk": "fast"}, on_gpus=True, uuids=("GPU-1",)), None),
    ],
)
def test_a_request_narrows_where_it_may_go(wanted: Wanted, why: str | None) -> None:
    node = replace(gpu_node("one", 2, "GPU-0"), labels={"disk": "fast"})
    told = verdicts([node], wanted)["one"]
    assert told is None if why is None else why in str(told)


def test_a_node_without_gpus_is_refused_where_gpus_are_asked_for() -> None:
    assert verdicts([a_node()], Wanted(gpus=2, on_gpus=True)) == {"one": "has no GPUs, 2 needed"}
    assert verdicts([a_node()], Wanted(gpus=2)) == {"one": None}


def test_packing_takes_the_fullest_gpu_and_spreading_the_emptiest() -> None:
    gpus = tuple(a_gpu(index) for index in range(3))
    held = (Claim(instance_id="i0", shares={"GPU-1": 500, "GPU-2": 200}),)
    node = a_node(gpus=gpus, claims=held)
    half = Wanted(share=0.5)
    assert choose_placement([node], half).gpus == ("GPU-1",)
    assert choose_placement([node], half, rule=Rule.SPREAD).gpus == ("GPU-0",)


def test_packing_takes_the_fullest_node_and_spreading_the_emptiest() -> None:
    nodes = [gpu_node("a", 4), gpu_node("b", 4, "GPU-0"), gpu_node("c", 4, "GPU-0", "GPU-1")]
    assert choose_placement(nodes, Wanted()).node == "c"
    assert choose_placement(nodes, Wanted(), rule=Rule.SPREAD).node == "a"


def test_a_node_that_holds_the_weights_comes_first() -> None:
    nodes = [gpu_node("a", 1), replace(gpu_node("b", 8), models=frozenset({"org/tiny"}))]
    assert choose_placement(nodes, Wanted(), model_name="org/tiny").node == "b"
    assert choose_placement(nodes, Wanted(), model_name="org/other").node == "a"


def test_nothing_goes_where_one_further_ahead_waits() -> None:
    with pytest.raises(NoCapacity, match="one is waited for by i7, which is ahead in the line"):
        choose_placement([a_node()], Wanted(), ahead={"one": "i7"})
