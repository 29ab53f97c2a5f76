"""Demand, and replicas that are made once, in the store in memory and in the one on Redis."""

from __future__ import annotations

import pytest

from shared.domain.instance import Status
from shared.store import Demand, Once, Places, Store
from shared.store.history import REPLICA
from tests.builders import an_instance
from tests.demo.waiting import until
from tests.integration.test_store import (  # noqa: F401 - fixtures
    Bench,
    RedisBench,
    bench,
    client,
    redis_bench,
    redis_url,
    store,
)

SLOT = Once(name="catalogue:tiny:0", fingerprint=REPLICA)


def test_what_web_processes_have_is_added_up(store: Store) -> None:  # noqa: F811
    store.tell_demand("a", {"tiny": Demand(1, 2), "other": Demand(0, 1)}, 10)
    store.tell_demand("b", {"tiny": Demand(3, 4)}, 10)
    assert store.demand() == {"tiny": Demand(4, 6), "other": Demand(0, 1)}
    assert store.demand(without="a") == {"tiny": Demand(3, 4)}


def test_what_is_said_later_replaces_what_was_said(store: Store) -> None:  # noqa: F811
    store.tell_demand("a", {"tiny": Demand(1, 2)}, 10)
    store.tell_demand("a", {"other": Demand(1, 0)}, 10)
    assert store.demand() == {"other": Demand(1, 0)}
    store.tell_demand("a", {}, 10)
    assert store.demand() == {}


def test_a_line_has_room_for_so_many_of_all_web_processes(store: Store) -> None:  # noqa: F811
    first = store.tell_demand("a", {"tiny": Demand(1, 3), "other": Demand(2, 0)}, 10, most=4)
    assert first == {"tiny": Places(3, 0), "other": Places(0, 0)}
    assert store.tell_demand("b", {"tiny": Demand(0, 3)}, 10, most=4) == {"tiny": Places(1, 3)}
    assert store.demand()["tiny"] == Demand(1, 4)
    again = store.tell_demand("a", {"tiny": Demand(0, 5)}, 10, most=4, sure={"tiny": 3})
    assert again == {"tiny": Places(3, 1)}
    assert store.tell_demand("a", {}, 10, most=4) == {}
    assert store.tell_demand("b", {"tiny": Demand(0, 5)}, 10, most=4) == {"tiny": Places(4, 0)}


def test_a_place_that_was_given_is_not_taken_back(store: Store) -> None:  # noqa: F811
    store.tell_demand("a", {"tiny": Demand(0, 4)}, 10, most=4)
    told = store.tell_demand("b", {"tiny": Demand(0, 3)}, 10, most=4, sure={"tiny": 2})
    assert told == {"tiny": Places(2, 4)}


def test_a_process_that_says_nothing_more_is_forgotten(bench: Bench) -> None:  # noqa: F811
    bench.store.tell_demand("a", {"tiny": Demand(1, 2)}, 0.2)
    assert bench.store.demand() == {"tiny": Demand(1, 2)}
    bench.let(1.0)
    assert until(lambda: bench.store.demand() == {}, 20)


def test_one_that_is_forgotten_leaves_nothing_behind(redis_bench: RedisBench) -> None:  # noqa: F811
    redis_bench.store.tell_demand("a", {"tiny": Demand(1, 2)}, 0.05)
    assert until(lambda: not redis_bench.client.exists("fleet:demand:a"), 20)
    redis_bench.store.tell_demand("b", {"tiny": Demand(1, 2)}, 10)
    assert redis_bench.client.zrange("fleet:demand", 0, -1) == ["b"]


def test_a_replica_is_made_once_while_it_counts(bench: Bench) -> None:  # noqa: F811
    assert bench.store.create(an_instance(instance_id="i1"), 9, once=SLOT)
    assert not bench.store.create(an_instance(instance_id="i2"), 9, once=SLOT)
    assert bench.store.get("i2") is None


@pytest.mark.parametrize("status", [Status.FAILED, Status.STOPPED])
def test_a_replica_that_is_over_is_made_again(bench: Bench, status: Status) -> None:  # noqa: F811
    assert bench.store.create(an_instance(instance_id="i1"), 9, once=SLOT)
    if status is Status.STOPPED:
        bench.store.stop("i1", reason="", by="user")
        bench.moved("i1", Status.STOPPING)
    bench.moved("i1", status)
    assert bench.store.create(an_instance(instance_id="i2"), 9, once=SLOT)
    assert not bench.store.create(an_instance(instance_id="i3"), 9, once=SLOT)


def test_a_replica_that_is_to_stop_is_made_again(bench: Bench) -> None:  # noqa: F811
    assert bench.store.create(an_instance(instance_id="i1"), 9, once=SLOT)
    bench.store.stop("i1", reason="", by="idle")
    assert bench.store.create(an_instance(instance_id="i2"), 9, once=SLOT)


def test_what_a_user_made_once_is_not_made_again_when_it_fails(bench: Bench) -> None:  # noqa: F811
    once = Once(name="ann 1", fingerprint="abc")
    assert bench.store.create(an_instance(instance_id="i1"), 9, once=once)
    bench.moved("i1", Status.FAILED)
    assert not bench.store.create(an_instance(instance_id="i2"), 9, once=once)


def test_idle_seconds_that_change_count_from_the_last_use(bench: Bench) -> None:  # noqa: F811
    bench.created("i1", timeout=0)
    bench.moved("i1", Status.STARTING, Status.RUNNING)
    bench.age("i1", 30)
    revision = bench.got("i1").revision
    bench.store.retime("i1", 600, who="catalogue")
    bench.store.retime("i1", 600, who="catalogue")
    assert (bench.got("i1").timeout, bench.got("i1").revision) == (600, revision + 1)
    assert not bench.store.stop_idle()
    bench.store.retime("i1", 20, who="catalogue")
    assert [one.instance_id for one in bench.store.stop_idle()] == ["i1"]


def test_one_that_is_never_to_stop_is_not_due_any_more(bench: Bench) -> None:  # noqa: F811
    bench.created("i1", timeout=20)
    bench.moved("i1", Status.STARTING, Status.RUNNING)
    bench.age("i1", 30)
    bench.store.retime("i1", 0, who="catalogue")
    assert not bench.store.stop_idle()
    bench.store.retime("nobody", 1, who="catalogue")
    assert bench.store.get("nobody") is None
