"""The line in the store, kept by the store in memory and by the one on a real Redis."""

# ruff: noqa: F811 - fixtures are asked for by their names

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from shared.domain.instance import Desired, Instance, Status
from shared.domain.node import REPORTED_WITHIN_S, Claim, GpuMemory, NodeReport
from shared.domain.placement import Placement
from shared.domain.wanted import Wanted
from shared.store import Room, Store
from tests.builders import a_gpu, a_node, an_instance
from tests.integration.test_store import (  # noqa: F401 - fixtures
    Bench,
    RedisBench,
    bench,
    client,
    redis_url,
    store,
)

GPU = Placement(node="one", shares={"GPU-0": 1000})


def waits(bench: Bench, name: str, **changes: Any) -> Instance:
    """Record an instance that waits in line; return it."""
    waiting = an_instance(instance_id=name, node="", reason="no node has room", **changes)
    assert bench.store.create(waiting, 0)
    return bench.got(name)


def room(*victims: str, most: int = 9, **asked: Any) -> Room:
    return Room(
        placement=GPU,
        max_instances=most,
        victims=victims,
        **{"quiet_s": 0.0, "min_ready_s": 0.0} | asked,
    )


def names(records: list[Instance]) -> list[str]:
    return [record.instance_id for record in records]


def test_who_waits_is_recorded_without_a_place(bench: Bench) -> None:
    one = waits(bench, "i1")
    assert (one.waiting, one.node, one.status, one.desired) == (True, "", "pending", "running")
    assert names(bench.store.instances()) == ["i1"]
    assert bench.node().claims == ()
    (event,) = bench.store.events("i1")
    assert event.reason == "created, waits in line: no node has room"


def test_the_line_goes_by_priority_and_then_by_age(bench: Bench) -> None:
    for name, priority in [("a", 0), ("b", -1000), ("c", 1000), ("d", 0), ("e", 1), ("f", 1000)]:
        waits(bench, name, wanted=Wanted(priority=priority))
    assert names(bench.store.waiting(99)) == ["c", "f", "e", "a", "d", "b"]
    assert names(bench.store.waiting(2)) == ["c", "f"]
    assert bench.store.line_length() == 6
    assert [bench.store.position(name) for name in "cab"] == [1, 4, 6]
    assert bench.store.position("nobody") is None
    of_new = [bench.store.ahead_of_new(priority) for priority in (1000, 999, 1, 0, -1, -1000)]
    assert of_new == [2, 2, 3, 5, 5, 6]


def test_who_gets_a_place_leaves_the_line_and_is_its_nodes(bench: Bench) -> None:
    before = waits(bench, "i1")
    assert bench.store.place("i1", GPU, 9, who="two")
    one = bench.got("i1")
    assert (one.node, one.gpus, one.waiting, one.reason) == ("one", ("GPU-0",), False, "")
    assert one.revision > before.revision
    assert bench.node().claims == (Claim(instance_id="i1", shares={"GPU-0": 1000}),)
    assert bench.store.placed_on("one") == [one]
    assert (bench.store.waiting(9), bench.store.position("i1")) == ([], None)
    event = bench.store.events("i1")[-1]
    assert (event.by, event.who, event.status) == ("line", "two", "pending")
    assert event.reason.startswith("placed on one after ")
    assert bench.store.apply(bench.a_change("i1"))  # its node's worker takes over


def test_a_place_is_given_once(bench: Bench) -> None:
    waits(bench, "i1")
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda _: bench.store.place("i1", GPU, 9, who=""), range(8)))
    assert given.count(True) == 1


def test_no_place_is_given_that_is_taken(bench: Bench) -> None:
    bench.created("i0", gpus=("GPU-0",))
    waits(bench, "i1")
    assert not bench.store.place("i1", GPU, 9, who="")
    assert not bench.store.place("i1", Placement(node="one"), 1, who="")
    assert bench.got("i1").waiting
    bench.store.cordon("one")
    assert not bench.store.place("i1", Placement(node="one"), 9, who="")
    bench.store.uncordon("one")
    assert bench.store.place("i1", Placement(node="one"), 9, who="")


def test_who_waited_and_was_forgotten_waits_again(bench: Bench) -> None:
    lost = an_instance(
        instance_id="i1", node="", created_at=7.0, reserved=GPU, wanted=Wanted(priority=3)
    )
    assert bench.store.rejoin(lost, who="web")
    assert not bench.store.rejoin(lost, who="web")  # another process has remembered it, too
    again = bench.got("i1")
    assert (again.waiting, again.created_at, again.reserved) == (True, 7.0, None)
    assert (names(bench.store.waiting(9)), bench.store.ahead_of_new(3)) == (["i1"], 1)
    assert names(bench.store.instances()) == ["i1"]
    assert bench.store.events("i1")[-1].reason.startswith("waits in line again")
    assert bench.store.place("i1", GPU, 9, who="two")
    assert not bench.store.rejoin(lost, who="web")
    assert bench.got("i1").node == "one"


def test_who_does_not_wait_is_given_no_place(bench: Bench) -> None:
    assert not bench.store.place("nobody", GPU, 9, who="")
    bench.created("i0")
    assert not bench.store.place("i0", GPU, 9, who="")


def test_who_is_stopped_in_line_ends_at_once(bench: Bench) -> None:
    waits(bench, "i1")
    assert bench.store.make_room("i1", room(), who="")
    ended = bench.store.stop("i1", reason="deleted by request", by="user", who="ann")
    assert ended is not None
    assert (ended.status, ended.desired, ended.reason) == ("stopped", "stopped", ended.stop_reason)
    assert ended.observed_generation == ended.generation
    assert ended.ended_at is not None
    assert (bench.store.waiting(9), bench.store.instances()) == ([], [])
    assert names(bench.store.instances(with_ended=True)) == ["i1"]
    assert bench.node().claims == ()
    told = [(event.by, event.who, event.status) for event in bench.store.events("i1")][-2:]
    assert told == [("user", "ann", "desired=stopped"), ("user", "ann", "stopped")]
    again = bench.store.stop("i1", reason="again", by="user")
    assert again == ended
    assert not bench.store.place("i1", GPU, 9, who="")


def test_idle_ones_are_asked_to_make_room_which_is_reserved(bench: Bench) -> None:
    bench.running("i0", gpus=("GPU-0",))
    waits(bench, "i1")
    assert bench.store.make_room("i1", room("i0"), who="beat")
    victim, one = bench.got("i0"), bench.got("i1")
    assert (victim.desired, victim.stop_by) == (Desired.STOPPED, "evict")
    assert "makes room for i1" in victim.stop_reason
    assert victim.about_to_stop_as_idle
    assert one.reserved == GPU
    assert one.waiting
    held = {claim.instance_id: claim.shares for claim in bench.node().claims}
    assert held == {"i0": {"GPU-0": 1000}, "i1": {"GPU-0": 1000}}
    other = an_instance(instance_id="i2", gpus=("GPU-0",))
    assert not bench.store.place("i1", GPU, 9, who="")  # not yet
    bench.moved("i0", Status.STOPPING, Status.STOPPED)
    assert not bench.store.create(other, 9)  # it is reserved
    assert bench.store.place("i1", GPU, 9, who="")
    assert bench.got("i1").reserved is None
    assert bench.node().claims == (Claim(instance_id="i1", shares={"GPU-0": 1000}),)


def test_an_instance_is_created_with_room_made_for_it(bench: Bench) -> None:
    bench.running("i0", gpus=("GPU-0",))
    waiting = an_instance(instance_id="i1", node="", reserved=GPU)
    assert bench.store.create(waiting, 9, room=room("i0"))
    assert bench.got("i0").stop_by == "evict"
    assert bench.got("i1").reserved == GPU
    assert "waits for room on one: i0 asked to stop" in bench.store.events("i1")[0].reason
    assert bench.store.position("i1") == 1


@pytest.mark.parametrize(
    ("victim", "asked"),
    [
        ({"timeout": 0}, {}),
        ({}, {"quiet_s": 60.0}),
        ({}, {"min_ready_s": 60.0}),
        ({"node": "two"}, {}),
    ],
)
def test_who_is_in_use_or_pinned_or_elsewhere_is_not_asked(
    bench: Bench, victim: dict[str, Any], asked: dict[str, Any]
) -> None:
    if victim.get("node") == "two":
        epoch = bench.store.announce(a_node(name="two"), "other")
        bench.created("i0", gpus=("GPU-0",), **victim)
        for status in (Status.STARTING, Status.RUNNING):
            assert bench.store.apply(bench.a_change("i0", status=status, epoch=epoch))
    else:
        bench.running("i0", gpus=("GPU-0",), **victim)
    refused = an_instance(instance_id="i1", node="", reserved=GPU)
    assert not bench.store.create(refused, 9, room=room("i0", **asked))
    assert bench.store.get("i1") is None
    waits(bench, "i2")
    assert not bench.store.make_room("i2", room("i0", **asked), who="")
    assert bench.got("i0").desired is Desired.RUNNING
    assert bench.got("i2").reserved is None


def test_nobody_is_asked_where_that_does_not_make_room(bench: Bench) -> None:
    bench.running("i0", gpus=("GPU-0",))
    waits(bench, "i1")
    assert not bench.store.make_room("i1", room(), who="")
    assert not bench.store.make_room("i1", room("i0", most=0), who="")
    bench.store.cordon("one")
    assert not bench.store.make_room("i1", room("i0"), who="")
    assert bench.got("i0").desired is Desired.RUNNING


def test_room_is_made_once(bench: Bench) -> None:
    bench.running("i0", gpus=("GPU-0",))
    waits(bench, "i1")
    assert bench.store.make_room("i1", room("i0"), who="")
    assert not bench.store.make_room("i1", room(), who="")
    waits(bench, "i2")
    assert not bench.store.make_room("i2", room("i0"), who="")


def test_one_that_turns_out_to_be_used_stays(bench: Bench) -> None:
    bench.running("i0", gpus=("GPU-0",))
    waits(bench, "i1")
    assert bench.store.make_room("i1", room("i0"), who="")
    bench.store.touch(["i0"])
    assert bench.got("i0").serving
    assert bench.store.give_up_room("i1")
    assert not bench.store.give_up_room("i1")
    assert bench.got("i1").reserved is None
    assert names(bench.store.waiting(9)) == ["i1"]
    assert bench.node().claims == (Claim(instance_id="i0", shares={"GPU-0": 1000}),)


def test_a_users_stop_takes_over_from_an_eviction(bench: Bench) -> None:
    bench.running("i0", gpus=("GPU-0",))
    waits(bench, "i1")
    assert bench.store.make_room("i1", room("i0"), who="")
    bench.store.stop("i0", reason="deleted", by="user")
    bench.store.touch(["i0"])
    assert bench.got("i0").desired is Desired.STOPPED


def test_shares_of_a_gpu_add_up(store: Store) -> None:
    def share(name: str, of: float) -> bool:
        wanted = Wanted(share=of)
        record = an_instance(instance_id=name, gpus=("GPU-0",), wanted=wanted)
        return store.create(record, 9)

    assert share("i1", 0.5)
    assert share("i2", 0.3)
    assert not share("i3", 0.201)
    assert share("i4", 0.2)
    assert not share("i5", 0.001)


def test_those_that_expire_next_come_first(bench: Bench) -> None:
    for name, timeout in [("late", 900), ("pinned", 0), ("soon", 60)]:
        bench.running(name, timeout=timeout)
    assert names(bench.store.soonest_due(9)) == ["soon", "late"]
    assert names(bench.store.soonest_due(1)) == ["soon"]


def test_claims_of_an_older_version_count_as_whole_gpus(client: Any) -> None:
    bench = RedisBench(client)
    client.hset("fleet:claims:one", "old", '["GPU-0"]')
    assert bench.node().claims == (Claim(instance_id="old", shares={"GPU-0": 1000}),)
    record = an_instance(instance_id="i1", gpus=("GPU-0",), wanted=Wanted(share=0.1))
    assert not bench.store.create(record, 9)


def test_a_record_of_an_older_version_has_whole_gpus(client: Any) -> None:
    bench = RedisBench(client)
    bench.created("i1", gpus=("GPU-0", "GPU-1"))
    client.hdel("fleet:instance:i1", "wanted", "reserved", "catalogue")
    assert bench.got("i1").wanted == Wanted(gpus=2)
    assert bench.got("i1").shares == {"GPU-0": 1000, "GPU-1": 1000}


def test_what_drivers_said_before_something_was_given_back_does_not_count(bench: Bench) -> None:
    epoch = bench.store.announce(a_node(name="two", gpus=(a_gpu(0),)), "other")
    report = NodeReport(memory={"GPU-0": GpuMemory(free_mib=5_000, foreign_mib=7)})
    bench.store.heartbeat("two", epoch, report)
    assert bench.node("two").gpus[0].free_mib == 5_000
    bench.created("i1", node="two", gpus=("GPU-0",))
    assert bench.node("two").gpus[0].free_mib == 5_000
    assert bench.store.apply(bench.a_change("i1", status=Status.FAILED, epoch=epoch))
    gpu = bench.node("two").gpus[0]
    assert (gpu.free_mib, gpu.foreign_mib) == (None, 7)
    if isinstance(bench, RedisBench):
        past = bench.store.now() - REPORTED_WITHIN_S
        bench.client.hset("fleet:node:two", "freed_at", past)
    bench.let(REPORTED_WITHIN_S)
    assert bench.node("two").gpus[0].free_mib == 5_000
    cursor = bench.store.nodes_since("").cursor
    bench.store.heartbeat("two", epoch)
    since = bench.store.nodes_since(cursor)  # those who follow are told of it, once
    assert [node.gpus[0].free_mib for node in since.found.values() if node] == [5_000]
    bench.store.heartbeat("two", epoch)
    assert not bench.store.nodes_since(since.cursor).found


def test_a_copy_from_when_it_waited_is_written_over(bench: Bench) -> None:
    waits(bench, "i1")
    older = bench.got("i1")
    kept = an_instance(
        instance_id="i1", status=Status.RUNNING, gpus=("GPU-0",), revision=5, run=1, ready_at=1.0
    )
    assert bench.store.restore(kept, epoch=bench.epoch, over=older.revision, reason="older")
    assert bench.got("i1").serving
    assert bench.store.waiting(9) == []
    assert not bench.store.place("i1", GPU, 9, who="")
    assert bench.node().claims == (Claim(instance_id="i1", shares={"GPU-0": 1000}),)
