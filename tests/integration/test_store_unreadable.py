"""Records that cannot be read keep nobody from the others: in lists, in line, and of nodes."""

# ruff: noqa: F811 - fixtures are asked for by their names

from __future__ import annotations

import json

import pytest

from shared.domain.instance import Status
from shared.domain.node import GpuMemory, Load, NodeReport
from shared.domain.placement import Placement, Rule
from shared.errors import RecordUnreadable
from shared.placing import Placing, serve_line
from shared.store import Query, Room
from tests.builders import a_gpu, a_node, an_instance, silent_doorbells
from tests.integration.test_store import (  # noqa: F401 - fixtures
    Bench,
    RedisBench,
    bench,
    client,
    redis_bench,
    redis_url,
    store,
)
from tests.integration.test_store_line import names, waits

AWAY = "redis://127.0.0.1:1/0"  # a doorbell that is not rung keeps nobody waiting
GPU = Placement(node="one", shares={"GPU-0": 1000})


def test_it_is_in_no_page_and_ends_none(bench: Bench) -> None:
    for name in ("a", "b", "c", "d"):
        bench.created(name)
    bench.damage("b")
    first = bench.store.page(Query(), limit=2)
    assert names(list(first.records)) == ["a", "c"]
    assert names(list(bench.store.page(Query(node="one"), after="a").records)) == ["c", "d"]
    assert names(list(bench.store.page(Query(status="pending"), after="b").records)) == ["c", "d"]


@pytest.mark.parametrize("created_at", ["soon", "NaN", "1e999"])
def test_a_page_may_begin_behind_one_without_a_time(
    redis_bench: RedisBench, created_at: str
) -> None:
    for name in ("a", "b", "c"):
        redis_bench.created(name)
    redis_bench.client.hset("fleet:instance:b", "created_at", created_at)
    assert names(list(redis_bench.store.page(Query(), after="b").records)) == ["c"]


def test_it_is_told_from_one_that_there_is_not(bench: Bench) -> None:
    bench.created("a")
    bench.damage("a")
    assert bench.store.several(["a", "none"]) == {"none": None}


def test_changes_leave_it_out_and_the_others_come(bench: Bench) -> None:
    for name in ("a", "b"):
        bench.created(name)
    cursor = bench.store.instances_since("").cursor
    for name in ("a", "b"):
        bench.moved(name, Status.STARTING)
    bench.damage("a")
    assert bench.store.instances_since(cursor).found == {"b": bench.got("b")}
    assert bench.store.instances_since("").found == {"b": bench.got("b")}


@pytest.mark.parametrize("field", ["created_at", "model_name", "node", "timeout"])
def test_what_changes_of_it_is_still_told(redis_bench: RedisBench, field: str) -> None:
    for name in ("a", "b"):
        redis_bench.running(name)
        redis_bench.age(name, 601)
    if field in ("model_name", "node"):
        redis_bench.client.hdel("fleet:instance:a", field)
    else:
        redis_bench.client.hset("fleet:instance:a", field, '"soon"')
    cursor = redis_bench.store.instances_since("").cursor
    assert "b" in names(redis_bench.store.stop_idle())
    redis_bench.store.note("a", by="user", who="ann", reason="looked at")
    assert "b" in redis_bench.store.instances_since(cursor).found


def test_who_is_behind_it_in_line_gets_a_place(bench: Bench) -> None:
    for name in ("a", "b", "c", "d"):
        waits(bench, name)
    bench.damage("b")
    assert names(bench.store.waiting(2)) == ["a", "c"]
    assert names(bench.store.waiting(9)) == ["a", "c", "d"]
    assert bench.store.position("d") == 4
    placing = Placing(rule=Rule.PACK, evict_after_s=60.0)
    nobody = silent_doorbells()
    placed = serve_line(bench.store, nobody, placing, who="test")
    assert placed == ["a", "c", "d"]
    assert bench.store.line_length() == 1
    with pytest.raises(RecordUnreadable):
        bench.store.stop("b", reason="enough", by="user")
    assert bench.store.line_length() == 1


def test_who_waits_and_is_deleted_from_redis_leaves_the_line(redis_bench: RedisBench) -> None:
    for name in ("a", "b", "c"):
        waits(redis_bench, name)
    redis_bench.client.delete("fleet:instance:a", "fleet:instance:b")
    assert names(redis_bench.store.waiting(1)) == ["c"]
    assert redis_bench.store.line_length() == 1


def test_it_is_nobody_who_would_make_room(bench: Bench) -> None:
    for name in ("a", "b"):
        bench.running(name)
    bench.damage("a")
    assert names(bench.store.soonest_due(9)) == ["b"]


@pytest.mark.parametrize(
    ("field", "stored"), [("timeout", '"long"'), ("ready_at", "soon"), ("revision", "many")]
)
def test_it_is_not_asked_to_make_room(redis_bench: RedisBench, field: str, stored: str) -> None:
    redis_bench.running("a", gpus=("GPU-0",))
    waits(redis_bench, "b")
    redis_bench.client.hset("fleet:instance:a", field, stored)
    room = Room(placement=GPU, max_instances=9, victims=("a",), quiet_s=0.0, min_ready_s=0.0)
    assert not redis_bench.store.make_room("b", room, who="test")
    assert redis_bench.client.hget("fleet:instance:a", "desired") == "running"
    assert redis_bench.node().held == {"GPU-0": 1000}


@pytest.mark.parametrize(
    ("field", "stored", "why"),
    [
        ("wanted", '{"gpus": "two"}', "wanted: gpus: str is not what stands there"),
        ("wanted", '{"priority": 1e30}', "wanted: priority: float is not what stands there"),
        ("wanted", '{"share": NaN}', "wanted: share: NaN is no number to count with"),
        ("wanted", "[]", "wanted: list is not what stands there"),
        ("reserved", '{"shares": {}}', "reserved: "),
        ("reserved", '{"node": 1}', "reserved: node: int is not what stands there"),
    ],
)
def test_what_is_wrong_with_its_parts_is_named(
    redis_bench: RedisBench, field: str, stored: str, why: str
) -> None:
    waits(redis_bench, "a")
    redis_bench.client.hset("fleet:instance:a", field, stored)
    with pytest.raises(RecordUnreadable) as raised:
        redis_bench.store.get("a")
    assert raised.value.why.startswith(why)


def test_parts_of_newer_versions_are_read(redis_bench: RedisBench) -> None:
    waits(redis_bench, "a")
    of_the_future = {"gpus": 2, "on_gpus": None, "uuids": ["GPU-0"], "of_the_future": 1}
    redis_bench.client.hset("fleet:instance:a", "wanted", json.dumps(of_the_future))
    wanted = redis_bench.got("a").wanted
    assert (wanted.gpus, wanted.on_gpus, wanted.uuids) == (2, None, ("GPU-0",))


# nodes


def test_a_node_that_cannot_be_read_is_in_no_news_until_it_can(redis_bench: RedisBench) -> None:
    told = redis_bench.store.nodes_since("")
    assert told.found.keys() == {"one"}
    redis_bench.store.announce(a_node(name="two"), "worker")
    redis_bench.client.hset("fleet:node:two", "labels", "[")
    since = redis_bench.store.nodes_since(told.cursor)
    assert since.found == {"two": None}
    assert [node.name for node in redis_bench.store.nodes(["one", "two"])] == ["one"]
    assert redis_bench.store.cordon("two") is None
    assert redis_bench.store.nodes_since("").found.keys() == {"one", "two"}
    redis_bench.client.hset("fleet:node:two", "labels", "{}")  # nobody says that it is mended
    found = redis_bench.store.nodes_since(redis_bench.store.nodes_since("").cursor).found
    assert found.keys() == {"two"}
    assert found["two"] is not None


def test_reports_of_newer_versions_are_read(redis_bench: RedisBench) -> None:
    redis_bench.store.announce(a_node(name="two", gpus=(a_gpu(0),)), "worker")
    report = {
        "memory": {"GPU-0": [5_000, 7, "of the future"]},
        "loads": {"i1": [1, 2, 3]},
        "models": ["org/tiny"],
        "of_the_future": 1,
    }
    redis_bench.client.hset("fleet:node:two", "report", json.dumps(report))
    expected = NodeReport(
        memory={"GPU-0": GpuMemory(5_000, 7)},
        loads={"i1": Load(1, 2)},
        models=frozenset({"org/tiny"}),
    ).told_of(redis_bench.node("two"))
    assert redis_bench.node("two").loads == expected.loads
    assert redis_bench.node("two").gpus == expected.gpus


def test_a_claim_that_cannot_be_read_hides_no_other_node(redis_bench: RedisBench) -> None:
    redis_bench.store.announce(a_node(name="two"), "worker")
    redis_bench.client.hset("fleet:claims:two", "i1", "7")
    assert [node.name for node in redis_bench.store.nodes()] == ["one"]
    assert redis_bench.store.create(an_instance(instance_id="i2"), 9)
