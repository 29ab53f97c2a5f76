"""Who is stopped to make room for another one."""

from __future__ import annotations

from typing import Any

import pytest

from shared.domain.eviction import QUIET_S, Eviction, choose_victims, may_be_evicted
from shared.domain.instance import Desired, Instance, Status
from shared.domain.node import Claim, Node
from shared.domain.placement import Placement
from shared.domain.wanted import Wanted
from tests.builders import a_gpu, a_node, an_instance

NOW = 10_000.0


def idle(name: str, since: float, **changes: Any) -> Instance:
    """Return a running instance that nobody has used for so many seconds."""
    used = NOW - since
    known = {"instance_id": name, "status": Status.RUNNING, "ready_at": 1.0, "last_active": used}
    return an_instance(**known | changes)


def node(name: str, **held: str) -> Node:
    """Return a node with four devices: instance → which of them it holds, by index."""
    claims = tuple(
        Claim(instance_id=one, shares=dict.fromkeys((f"GPU-{index}" for index in gpus), 1000))
        for one, gpus in held.items()
    )
    return a_node(name=name, max_instances=9, claims=claims, gpus=tuple(map(a_gpu, range(4))))


def chosen(nodes: list[Node], wanted: Wanted, *instances: Instance) -> Eviction | None:
    return choose_victims(nodes, wanted, instances, NOW, min_ready_s=60.0)


@pytest.mark.parametrize(
    ("instance", "may"),
    [
        (idle("i", 100.0), True),
        (idle("i", QUIET_S), True),
        (idle("i", QUIET_S - 0.1), False),
        (idle("i", 100.0, timeout=0), False),
        (idle("i", 100.0, status=Status.STARTING), False),
        (idle("i", 100.0, status=Status.UNHEALTHY), False),
        (idle("i", 100.0, desired=Desired.STOPPED), False),
        (idle("i", 100.0, ready_at=NOW - 59.0), False),
        (idle("i", 100.0, ready_at=None), False),
        (idle("i", 100.0, wanted=Wanted(priority=1)), False),
        (idle("i", 100.0, wanted=Wanted(priority=-1)), True),
        (idle("i", 100.0, last_active=None), True),
    ],
)
def test_only_what_nobody_uses_may_go(instance: Instance, may: bool) -> None:
    assert may_be_evicted(instance, NOW, min_ready_s=60.0, priority=0) is may


def test_the_longest_idle_goes_first_wherever_it_is() -> None:
    nodes = [node("a", new="0123"), node("b", old="0123")]
    eviction = chosen(nodes, Wanted(), idle("new", 10, node="a"), idle("old", 500, node="b"))
    place = Placement(node="b", shares={"GPU-0": 1000})
    assert eviction == Eviction(victims=("old",), placement=place)


def test_as_many_go_as_are_needed_and_no_more() -> None:
    nodes = [node("a", i1="0", i2="1", i3="23")]
    idles = [idle("i1", 300, node="a"), idle("i2", 200, node="a"), idle("i3", 100, node="a")]
    assert chosen(nodes, Wanted(gpus=2), *idles) == Eviction(
        victims=("i1", "i2"), placement=Placement(node="a", shares={"GPU-0": 1000, "GPU-1": 1000})
    )
    # The last one makes room alone: those before it need not go.
    three = chosen(nodes, Wanted(gpus=2, uuids=("GPU-2", "GPU-3")), *idles)
    assert three is not None
    assert three.victims == ("i3",)


def test_nobody_goes_where_it_would_not_help() -> None:
    nodes = [node("a", used="012", i1="3")]
    assert chosen(nodes, Wanted(gpus=2), idle("i1", 300, node="a")) is None
    assert chosen([node("a")], Wanted(), idle("i1", 300, node="a")) is None  # there is room


def test_nobody_goes_where_the_instance_may_not_be() -> None:
    held = node("a", i1="0123")
    assert chosen([held], Wanted(node="b"), idle("i1", 300, node="a")) is None


def test_a_place_among_the_instances_of_a_node_is_made_too() -> None:
    full = a_node(max_instances=1, claims=(Claim(instance_id="i1"),))
    assert chosen([full], Wanted(), idle("i1", 300)) == Eviction(
        victims=("i1",), placement=Placement(node="one")
    )


def test_memory_that_the_victims_hold_counts_as_free() -> None:
    gpus = tuple(a_gpu(index) for index in range(1))
    full = a_node(
        gpus=tuple(type(gpu)(**{**_fields(gpu), "free_mib": 1_000}) for gpu in gpus),
        claims=(Claim(instance_id="i1", shares={"GPU-0": 900}),),
    )
    eviction = chosen([full], Wanted(share=0.9), idle("i1", 300))
    assert eviction is not None
    assert eviction.placement.shares == {"GPU-0": 900}


def _fields(gpu: Any) -> dict[str, Any]:
    return {name: getattr(gpu, name) for name in ("index", "uuid", "name", "total_mib")}
