"""The line: who is served, who is not overtaken, and when there will be room."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shared.domain.instance import Desired, Instance, Status
from shared.domain.line import expected_at, is_leaving, kept_free, nearest_nodes, serve
from shared.domain.node import Claim, Node
from shared.domain.placement import Placement
from shared.domain.wanted import Wanted
from tests.builders import a_gpu, a_node, an_instance

NOW = 10_000.0


def waits(name: str, gpus: int = 1, **wanted: Any) -> Instance:
    return an_instance(instance_id=name, node="", wanted=Wanted(gpus=gpus, **wanted))


def node(name: str, total: int, held: int) -> Node:
    """Return a node with `total` devices of which an instance of each holds the first `held`."""
    claims = tuple(
        Claim(instance_id=f"{name}{index}", shares={f"GPU-{index}": 1000}) for index in range(held)
    )
    gpus = tuple(a_gpu(index) for index in range(total))
    return a_node(name=name, max_instances=99, claims=claims, gpus=gpus)


def test_the_first_in_line_is_served_first() -> None:
    served = serve([waits("first"), waits("second")], [node("a", 2, 1)], ())
    assert served.placed == {"first": Placement(node="a", shares={"GPU-1": 1000})}
    assert served.kept == {"a": "second"}


def test_what_one_gets_the_next_does_not() -> None:
    served = serve([waits("first"), waits("second")], [node("a", 2, 0)], ())
    gpus = [place.gpus for place in served.placed.values()]
    assert gpus == [("GPU-0",), ("GPU-1",)]


def test_nobody_overtakes_on_the_node_that_one_ahead_waits_for() -> None:
    served = serve([waits("large", 4), waits("small")], [node("a", 4, 2)], ())
    assert served.placed == {}
    assert served.kept == {"a": "large"}


def test_other_nodes_stay_open_to_whoever_fits() -> None:
    nodes = [node("a", 4, 1), node("b", 4, 3)]
    served = serve([waits("large", 4), waits("small")], nodes, ())
    assert {name: place.node for name, place in served.placed.items()} == {"small": "b"}
    assert served.kept == {"a": "large"}


def test_one_that_no_node_can_ever_take_keeps_nobody_waiting() -> None:
    served = serve([waits("huge", 8), waits("small")], [node("a", 4, 0)], ())
    assert list(served.placed) == ["small"]
    assert served.kept == {}


def test_a_new_instance_respects_those_ahead_of_it() -> None:
    nodes = [node("a", 4, 2)]
    line = [waits("large", 4)]
    assert kept_free(line, nodes, priority=0) == {"a": "large"}
    assert kept_free(line, nodes, priority=1) == {}
    assert kept_free([], nodes, priority=0) == {}


def test_those_that_may_evict_are_named() -> None:
    served = serve([waits("i1", evict=True), waits("i2")], [node("a", 1, 1)], ())
    assert served.short == ("i1",)


def reserving(name: str, *, victims: int) -> tuple[Instance, Node]:
    """Return one that waits for a device that `victims` others hold, and its node."""
    place = Placement(node="a", shares={"GPU-0": 1000})
    of_a = node("a", 1, victims)
    claim = Claim(instance_id=name, shares=place.shares)
    return replace(waits(name), reserved=place), replace(of_a, claims=(*of_a.claims, claim))


def test_what_is_reserved_is_given_once_it_is_free() -> None:
    one, of_a = reserving("i1", victims=0)
    served = serve([one], [of_a], ())
    assert served.placed == {"i1": Placement(node="a", shares={"GPU-0": 1000})}


def test_what_is_reserved_is_waited_for_while_somebody_is_leaving() -> None:
    one, of_a = reserving("i1", victims=1)
    served = serve([one], [of_a], {"a0"})
    assert (served.placed, served.overdue) == ({}, ())


def test_what_nobody_leaves_any_more_is_given_up() -> None:
    one, of_a = reserving("i1", victims=1)
    assert serve([one], [of_a], ()).overdue == ("i1",)
    assert serve([one], [], ()).overdue == ("i1",)
    lost = replace(of_a, claims=of_a.claims[:1])
    assert serve([one], [lost], {"a0"}).overdue == ("i1",)
    cordoned = replace(of_a, cordoned=True)
    assert serve([one], [cordoned], {"a0"}).overdue == ("i1",)


def test_nobody_else_gets_what_is_reserved() -> None:
    one, of_a = reserving("i1", victims=0)
    served = serve([waits("i0"), one], [of_a], ())
    assert list(served.placed) == ["i1"]


def running(name: str, *, idle_for: float, **changes: Any) -> Instance:
    known = {"instance_id": name, "status": Status.RUNNING, "last_active": NOW - idle_for}
    return an_instance(**known | {"timeout": 600} | changes)


def test_a_place_is_expected_when_enough_have_expired() -> None:
    nodes = [node("a", 2, 2)]
    holders = [running("a0", idle_for=100, node="a"), running("a1", idle_for=400, node="a")]
    first, second = waits("i1"), waits("i2")
    at, place = expected_at([first], nodes, holders, NOW) or (0.0, None)
    assert (at, place) == (NOW + 200, Placement(node="a", shares={"GPU-1": 1000}))
    assert (expected_at([first, second], nodes, holders, NOW) or (0.0,))[0] == NOW + 500
    assert (expected_at([waits("i3", 2)], nodes, holders, NOW) or (0.0,))[0] == NOW + 500


def test_nobody_can_say_when_those_leave_that_never_expire() -> None:
    pinned = running("a0", idle_for=1, timeout=0, node="a")
    assert expected_at([waits("i1")], [node("a", 1, 1)], [pinned], NOW) is None


def test_those_that_stop_leave_now() -> None:
    stopping = running("a0", idle_for=1, desired=Desired.STOPPED, node="a")
    assert (expected_at([waits("i1")], [node("a", 1, 1)], [stopping], NOW) or (0.0,))[0] == NOW
    assert is_leaving(stopping)
    assert not is_leaving(replace(stopping, status=Status.STOP_FAILED))


def test_the_nearest_node_is_the_one_that_lacks_least() -> None:
    nodes = [node("a", 4, 3), node("b", 4, 2), node("c", 2, 0)]
    assert nearest_nodes(waits("i1", 4), nodes) == ["b", "a"]
    assert nearest_nodes(waits("i1", 8), nodes) == []


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), min_size=1, max_size=4),
    st.lists(st.integers(1, 5), max_size=6),
)
def test_the_line_never_gives_what_is_not_there(
    fleet: list[tuple[int, int]], line: list[int]
) -> None:
    nodes = [
        node(f"n{number}", total, min(held, total)) for number, (total, held) in enumerate(fleet)
    ]
    waiting = [waits(f"w{number}", gpus) for number, gpus in enumerate(line)]
    served = serve(waiting, nodes, ())
    given_away = {of.name: [uuid for c in of.claims for uuid in c.gpus] for of in nodes}
    for place in served.placed.values():
        given_away[place.node] += place.gpus
    for gpus in given_away.values():
        assert len(set(gpus)) == len(gpus)
