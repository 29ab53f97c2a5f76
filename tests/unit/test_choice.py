"""Which replica a request goes to."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.choice import (
    LOOKED_AT,
    Replica,
    bounded,
    from_point,
    from_turn,
    least,
    point_of,
    replica_of,
    sticky,
)
from tests.builders import an_instance


def replicas(count: int) -> list[Replica]:
    """Return as many replicas, by their points."""
    made = [replica_of(an_instance(instance_id=f"r{number}")) for number in range(count)]
    return sorted(made, key=lambda replica: replica.point)


def ids(chosen: object) -> list[str]:
    """Return the ids of replicas."""
    assert isinstance(chosen, (list, tuple))
    return [replica.instance.instance_id for replica in chosen]


def test_the_fewest_requests_win() -> None:
    loads = {"r0": 3, "r1": 1, "r2": 2}
    assert least(replicas(3), loads.__getitem__).instance.instance_id == "r1"


def test_turns_begin_at_each_replica_equally_often() -> None:
    some = replicas(5)
    firsts = Counter(from_turn(some, turn)[0].point for turn in range(20))
    assert set(firsts.values()) == {4}


@given(st.integers(1, 60), st.integers(0, 2**64 - 1))
def test_no_choice_looks_at_more_than_a_few_nor_twice_at_one(count: int, point: int) -> None:
    some = replicas(count)
    for near in (from_point(some, point), from_turn(some, point)):
        assert len(near) == min(count, LOOKED_AT)
        assert len(set(ids(near))) == len(near)


def test_nobody_is_near_where_nobody_is() -> None:
    assert list(from_turn([], 3)) == []
    assert list(from_point([], 3)) == []


@pytest.mark.parametrize("count", [2, 5, 16, 40])
def test_keys_are_spread_evenly(count: int) -> None:
    some = replicas(count)
    keys = [point_of(str(number).encode()) for number in range(4000)]
    got = Counter(sticky(from_point(some, key), key).point for key in keys)
    assert len(got) == count
    assert max(got.values()) < 2.2 * 4000 / count


@pytest.mark.parametrize("count", [3, 10, 40])
def test_one_that_goes_takes_only_its_own_keys_along(count: int) -> None:
    some = replicas(count)
    gone = some[1]
    left = [replica for replica in some if replica is not gone]
    keys = [point_of(str(number).encode()) for number in range(2000)]
    moved = elsewhere = 0
    for key in keys:
        before, after = (sticky(from_point(of, key), key) for of in (some, left))
        moved += before is gone
        elsewhere += before is not gone and before is not after
    assert moved
    assert elsewhere <= len(keys) * 0.05  # those whose window moved on


def test_a_key_stays_while_its_replica_is_not_above_the_others() -> None:
    some = replicas(4)
    key = point_of(b"a conversation")
    mine = sticky(some, key).instance.instance_id
    assert bounded(some, key, lambda name: 3 if name == mine else 0).instance.instance_id == mine
    assert bounded(some, key, lambda name: 4 if name == mine else 0).instance.instance_id != mine
    assert bounded(some, key, lambda _: 8).instance.instance_id == mine
    assert bounded(some, key, lambda name: 9 if name == mine else 8).instance.instance_id == mine
    assert bounded(some, key, lambda name: 20 if name == mine else 2).instance.instance_id != mine


def test_a_hot_key_spreads_within_the_bound() -> None:
    some = replicas(4)
    key = point_of(b"what everybody asks")
    loads: Counter[str] = Counter()
    for _ in range(100):
        loads[bounded(some, key, loads.__getitem__).instance.instance_id] += 1
    assert max(loads.values()) <= 32  # a quarter above 25, rounded up


def test_a_point_is_the_same_in_every_process() -> None:
    assert point_of(b"a") == 0x40F89E395B66422F
