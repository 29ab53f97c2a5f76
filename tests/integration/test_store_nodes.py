"""The `Nodes` part of the Store contract, kept by the store in memory and by the one on Redis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from shared.domain.instance import Status
from shared.domain.node import Gpu, GpuMemory, Load, Node, NodeReport
from shared.store import Beat
from tests.builders import a_gpu, a_node, an_instance
from tests.integration.test_store import (  # noqa: F401 - fixtures
    PATHS,
    Bench,
    RedisBench,
    bench,
    client,
    redis_bench,
    redis_url,
    store,
)

REPORT = NodeReport(
    memory={"GPU-0": GpuMemory(free_mib=70_000, foreign_mib=500), "GPU-1": GpuMemory(None)},
    loads={"i1": Load(running=3, waiting=12)},
    models=frozenset({"org/tiny", "folder"}),
)


def timeless(node: Node | None) -> Node | None:
    """Return the node as it is whenever it is read."""
    return node and replace(node, heartbeat_age_s=None)


def changed_since(bench: Bench, cursor: str) -> set[str]:  # noqa: F811
    """Return which nodes changed."""
    since = bench.store.nodes_since(cursor)
    assert not since.whole
    return set(since.found)


# what is announced and reported


def test_labels_and_the_engine_version_are_announced(bench: Bench) -> None:  # noqa: F811
    node = a_node(name="two", labels={"zone": "a", "spot": ""}, engine_version="0.33.0")
    bench.store.announce(node, "worker")
    found = bench.node("two")
    assert (found.labels, found.engine_version) == ({"zone": "a", "spot": ""}, "0.33.0")


def test_simulated_gpus_stay_simulated(bench: Bench) -> None:  # noqa: F811
    gpu = Gpu(index=0, uuid="SIM-two-0", name="simulated", total_mib=1024, simulated=True)
    bench.store.announce(a_node(name="two", gpus=(gpu,)), "worker")
    assert bench.node("two").gpus == (gpu,)
    assert bench.node("two").simulated
    assert not bench.node("one").simulated


def test_a_report_is_read_back_whole_until_the_next_one(bench: Bench) -> None:  # noqa: F811
    gpus = (a_gpu(0), a_gpu(1))
    epoch = bench.store.announce(a_node(gpus=gpus), "worker")
    assert bench.store.heartbeat("one", epoch, REPORT) is Beat.OK
    bench.store.heartbeat("one", epoch)
    node = bench.node()
    assert node.gpus == (replace(a_gpu(0), free_mib=70_000, foreign_mib=500), a_gpu(1))
    assert (node.loads, node.models) == (REPORT.loads, REPORT.models)
    bench.store.heartbeat("one", epoch, NodeReport())
    assert (bench.node().gpus, bench.node().loads) == (gpus, {})


def test_a_new_worker_has_reported_nothing_yet(bench: Bench) -> None:  # noqa: F811
    bench.store.heartbeat("one", bench.epoch, REPORT)
    bench.store.announce(a_node(), "worker")
    assert (bench.node().models, bench.node().loads) == (frozenset(), {})


def test_a_replaced_worker_reports_nothing(bench: Bench) -> None:  # noqa: F811
    bench.store.announce(a_node(), "worker")
    assert bench.store.heartbeat("one", bench.epoch, REPORT) is Beat.SUPERSEDED
    assert bench.node().models == frozenset()


def test_one_node_is_read_by_its_name(bench: Bench) -> None:  # noqa: F811
    bench.created()
    assert timeless(bench.store.node("one")) == timeless(bench.node())
    assert bench.store.node("none") is None
    bench.store.announce(a_node(name="two"), "worker")
    assert [node.name for node in bench.store.nodes(["two", "none"])] == ["two"]


# cordon and drain


def test_a_cordoned_node_takes_nothing_new(bench: Bench) -> None:  # noqa: F811
    node = bench.store.cordon("one")
    assert node
    assert (node.cordoned, node.draining) == (True, False)
    assert not bench.store.create(an_instance(), 100)
    assert bench.store.get(an_instance().instance_id) is None
    back = bench.store.uncordon("one")
    assert back
    assert not back.cordoned
    assert bench.store.create(an_instance(), 100)


def test_a_drained_node_is_cordoned_and_drained_once_nothing_is_left(
    bench: Bench,  # noqa: F811
) -> None:
    bench.created("i1")
    node = bench.store.cordon("one", drain=True)
    assert node
    assert (node.cordoned, node.draining, node.drained) == (True, True, False)
    bench.moved("i1", *PATHS[Status.STOPPED])
    assert bench.node().drained


def test_a_cordon_does_not_end_a_drain_and_an_uncordon_does(bench: Bench) -> None:  # noqa: F811
    bench.store.cordon("one", drain=True)
    bench.store.cordon("one")
    assert bench.node().draining
    bench.store.uncordon("one")
    assert (bench.node().cordoned, bench.node().draining) == (False, False)


def test_a_node_hears_with_its_heartbeat_what_an_operator_asks_of_it(
    bench: Bench,  # noqa: F811
) -> None:
    bench.store.cordon("one")
    assert bench.store.heartbeat("one", bench.epoch) is Beat.CORDONED
    bench.store.cordon("one", drain=True)
    assert bench.store.heartbeat("one", bench.epoch) is Beat.DRAINING
    bench.store.uncordon("one")
    assert bench.store.heartbeat("one", bench.epoch) is Beat.OK


def test_a_cordon_survives_the_worker(bench: Bench) -> None:  # noqa: F811
    bench.store.cordon("one", drain=True)
    bench.store.announce(a_node(), "worker")
    assert bench.node().draining
    bench.store.uncordon("one")
    bench.store.announce(a_node(cordoned=True, draining=True), "worker")
    assert not bench.node().cordoned, "the store knows better than the node"


def test_a_node_that_the_store_has_lost_says_that_it_was_cordoned(bench: Bench) -> None:  # noqa: F811
    bench.store.announce(a_node(name="two", cordoned=True), "worker")
    bench.store.announce(a_node(name="three", cordoned=True, draining=True), "worker")
    assert (bench.node("two").cordoned, bench.node("two").draining) == (True, False)
    assert bench.node("three").draining


def test_nobody_is_cordoned_who_is_not_there(bench: Bench) -> None:  # noqa: F811
    assert bench.store.cordon("none") is None
    assert bench.store.uncordon("none") is None
    assert [node.name for node in bench.store.nodes()] == ["one"]


# who asked for a stop


def test_a_users_stop_takes_over_from_a_drains_and_not_the_other_way(
    bench: Bench,  # noqa: F811
) -> None:
    bench.running("i1")
    asked = [bench.store.stop("i1", reason=by, by=by) for by in ("idle", "drain", "user", "drain")]
    assert [record.stop_by for record in asked if record] == ["idle", "drain", "user", "user"]


def test_a_drain_does_not_try_a_failed_stop_again(bench: Bench) -> None:  # noqa: F811
    bench.moved(bench.created("i1"), *PATHS[Status.STOP_FAILED])
    bench.store.stop("i1", reason="enough", by="user")
    before = bench.got("i1").generation
    bench.store.stop("i1", reason="drained", by="drain")
    assert bench.got("i1").generation == before


# forgetting


def test_a_lost_node_that_holds_nothing_is_forgotten(bench: Bench) -> None:  # noqa: F811
    assert not bench.store.forget_node("one"), "it lives"
    bench.created("i1")
    bench.store.retire("one", bench.epoch)
    assert not bench.store.forget_node("one"), "it holds an instance"
    bench.moved("i1", *PATHS[Status.STOPPED])
    assert bench.store.forget_node("one")
    assert bench.store.nodes() == []
    assert not bench.store.forget_node("one")
    assert bench.store.heartbeat("one", bench.epoch) is Beat.UNKNOWN


# following


def test_a_follower_is_told_what_has_changed_and_no_more(bench: Bench) -> None:  # noqa: F811
    bench.store.announce(a_node(name="two"), "worker")
    first = bench.store.nodes_since("")
    assert first.whole
    assert {name for name, node in first.found.items() if node} == {"one", "two"}
    assert changed_since(bench, first.cursor) == set()
    bench.store.cordon("two")
    second = bench.store.nodes_since(first.cursor)
    assert second.found.keys() == {"two"}
    assert timeless(second.found["two"]) == timeless(bench.node("two"))
    assert changed_since(bench, second.cursor) == set()


@pytest.mark.parametrize(
    "what",
    ["create", "release", "report", "cordon", "orphans", "retire", "announce", "restore", "forget"],
)
def test_each_change_of_a_node_is_told(bench: Bench, what: str) -> None:  # noqa: F811
    kept = bench.moved(bench.created("i0"), *PATHS[Status.STOPPED])
    if what in ("release", "restore"):
        kept = bench.running("i1")
    if what == "restore":
        bench.lose("i1")
    if what == "forget":
        bench.store.retire("one", bench.epoch)
    cursor = bench.store.nodes_since("").cursor
    changes: dict[str, Callable[[], object]] = {
        "create": lambda: bench.created("i2"),
        "release": lambda: bench.moved("i1", Status.FAILED),
        "report": lambda: bench.store.heartbeat("one", bench.epoch, REPORT),
        "cordon": lambda: bench.store.cordon("one"),
        "orphans": lambda: bench.store.report_orphans("one", bench.epoch, []),
        "retire": lambda: bench.store.retire("one", bench.epoch),
        "announce": lambda: bench.store.announce(a_node(), "worker"),
        "restore": lambda: bench.store.restore(kept, epoch=bench.epoch, over=None, reason="lost"),
        "forget": lambda: bench.store.forget_node("one"),
    }
    changes[what]()
    since = bench.store.nodes_since(cursor)
    assert since.found.keys() == {"one"}
    assert timeless(since.found["one"]) == timeless(bench.store.node("one"))


def test_a_heartbeat_with_no_news_is_no_change(bench: Bench) -> None:  # noqa: F811
    cursor = bench.store.nodes_since("").cursor
    bench.store.heartbeat("one", bench.epoch)
    assert changed_since(bench, cursor) == set()


def test_who_is_silent_is_told_each_time_and_for_how_long(bench: Bench) -> None:  # noqa: F811
    bench.store.announce(a_node(name="two"), "worker")
    assert bench.store.nodes_since("").lost == {}
    bench.silence("one", 20.0)
    if isinstance(bench, RedisBench):
        assert bench.store.nodes_since("").lost.keys() == {"one"}
    lost = bench.store.nodes_since("").lost
    assert 20.0 <= lost["one"] < 22.0
    bench.store.heartbeat("one", bench.epoch)
    assert "one" not in bench.store.nodes_since("").lost


def test_who_has_left_is_not_silent_but_lost(bench: Bench) -> None:  # noqa: F811
    bench.store.retire("one", bench.epoch)
    since = bench.store.nodes_since("")
    assert since.lost == {}
    assert since.found["one"]
    assert since.found["one"].lost


def test_in_an_emptied_store_an_old_cursor_says_nothing(redis_bench: RedisBench) -> None:  # noqa: F811
    cursor = redis_bench.store.nodes_since("").cursor
    redis_bench.client.flushall()
    redis_bench.store.announce(a_node(name="two"), "worker")
    since = redis_bench.store.nodes_since(cursor)
    assert (since.whole, set(since.found)) == (True, {"two"})


def test_changes_of_nodes_are_heard(bench: Bench) -> None:  # noqa: F811
    changes = bench.store.node_changes(5.0)
    assert next(changes) == frozenset()
    bench.store.heartbeat("one", bench.epoch, REPORT)  # not heard: each beat would be
    bench.store.cordon("one")
    assert next(changes) == {"one"}
    changes.close()
