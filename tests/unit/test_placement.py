"""Where a new instance goes, and why it goes nowhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.node import LOST_AFTER_S, Claim, Node
from shared.domain.placement import Placement, choose_placement
from shared.errors import NoCapacity
from tests.builders import a_gpu, a_node


def claims(number: int, *gpus: str) -> tuple[Claim, ...]:
    """Return that many claims; the first holds `gpus`."""
    return tuple(
        Claim(instance_id=f"i{index}", gpus=gpus if index == 0 else ()) for index in range(number)
    )


def gpu_node(name: str, gpus: int, *held: str) -> Node:
    """Return a node with that many devices, of which one instance holds `held`."""
    return a_node(
        name=name,
        max_instances=20,
        gpus=tuple(a_gpu(index) for index in range(gpus)),
        claims=claims(1, *held) if held else (),
    )


def test_the_fullest_gpu_node_that_fits_is_chosen() -> None:
    nodes = [gpu_node("empty", 8), gpu_node("fuller", 8, "GPU-0", "GPU-1"), gpu_node("small", 1)]
    assert choose_placement(nodes, 2) == Placement(node="fuller", gpus=("GPU-2", "GPU-3"))


def test_gpus_are_taken_in_order_and_none_that_is_held() -> None:
    assert choose_placement([gpu_node("a", 4, "GPU-0", "GPU-2")], 2).gpus == ("GPU-1", "GPU-3")


def test_a_gpu_node_comes_before_one_without() -> None:
    assert choose_placement([a_node(name="cpu"), gpu_node("gpu", 8)], 1).node == "gpu"


def test_without_gpus_the_emptiest_node_is_chosen() -> None:
    nodes = [
        a_node(name="a", claims=claims(2)),
        a_node(name="b", claims=claims(1)),
        a_node(name="c", claims=claims(3)),
    ]
    assert choose_placement(nodes, 1) == Placement(node="b")


def test_equals_are_decided_by_name() -> None:
    assert choose_placement([a_node(name="b"), a_node(name="a")], 1).node == "a"


@pytest.mark.parametrize("age", [None, LOST_AFTER_S + 0.1])
def test_nothing_is_placed_on_a_lost_node(age: float | None) -> None:
    nodes = [a_node(name="a", heartbeat_age_s=age), a_node(name="b", claims=claims(2))]
    assert choose_placement(nodes, 1).node == "b"


def test_a_node_that_beat_in_time_is_not_lost() -> None:
    assert not a_node(heartbeat_age_s=LOST_AFTER_S).lost


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (a_node(heartbeat_age_s=None), "one is lost: its worker sends no heartbeat"),
        (a_node(claims=claims(3)), "one runs 3 of at most 3 instances"),
        (a_node(max_instances=0), "one runs 0 of at most 0 instances"),
        (gpu_node("big", 4, "GPU-0"), "big has 3 free of 4 GPUs, 4 needed"),
    ],
)
def test_a_refusal_says_why_for_the_node(node: Node, why: str) -> None:
    with pytest.raises(NoCapacity, match=f"^no node has room: {why}$"):
        choose_placement([node], 4)


def test_a_refusal_names_every_node() -> None:
    nodes = [a_node(name="b", heartbeat_age_s=None), a_node(name="a", claims=claims(3))]
    with pytest.raises(NoCapacity, match=r"room: a runs 3 .*; b is lost"):
        choose_placement(nodes, 1)


def test_an_empty_fleet_says_that_no_worker_has_registered() -> None:
    with pytest.raises(NoCapacity, match="no worker has registered"):
        choose_placement([], 1)


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
        place = choose_placement(nodes, gpu_count)
    except NoCapacity:
        return
    node = next(node for node in nodes if node.name == place.node)
    assert not node.lost
    assert node.free_slots > 0
    assert set(place.gpus) <= {gpu.uuid for gpu in node.free_gpus}
    assert len(place.gpus) == (gpu_count if node.gpus else 0)
