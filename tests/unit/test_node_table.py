"""A web process's table of nodes, on a store in memory."""

from __future__ import annotations

import threading

import pytest

from shared.domain.instance import Status
from shared.domain.node import Load, NodeReport
from shared.errors import StoreUnavailable
from shared.store import Change
from shared.store.memory import MemoryStore
from shared.store.nodes import NodesSince
from tests.builders import a_node, an_instance
from tests.demo.waiting import until
from web.tables.node_table import NodeTable


class Clocked(MemoryStore):
    """A store whose time is a number, and that can be away."""

    def __init__(self) -> None:
        self.now_is = 1000.0
        self.away = False
        self.reads = 0
        super().__init__(lambda: self.now_is)

    def nodes_since(self, cursor: str) -> NodesSince:
        self.reads += 1
        if self.away:
            raise StoreUnavailable("Redis does not answer")
        return super().nodes_since(cursor)


@pytest.fixture
def store() -> Clocked:
    store = Clocked()
    store.announce(a_node(name="one"), "worker")
    store.announce(a_node(name="two"), "worker")
    return store


@pytest.fixture
def table(store: Clocked) -> NodeTable:
    table = NodeTable(store)
    table.refresh()
    return table


def test_it_has_all_nodes_by_name(table: NodeTable) -> None:
    assert [node.name for node in table.nodes()] == ["one", "two"]
    assert table.get("none") is None


def test_a_claim_shows_after_a_refresh(store: Clocked, table: NodeTable) -> None:
    store.create(an_instance(), 3)
    table.refresh()
    one = table.get("one")
    assert one
    assert [claim.instance_id for claim in one.claims] == [an_instance().instance_id]


def test_a_silent_node_is_lost_and_comes_back_with_its_next_beat(
    store: Clocked, table: NodeTable
) -> None:
    assert (table.is_lost("one"), table.why_lost("one")) == (False, "")
    store.now_is += 16.0
    store.heartbeat("two", 1)
    table.refresh()
    assert (table.is_lost("one"), table.is_lost("two")) == (True, False)
    assert table.why_lost("one") == "lost: silent for 16 s"
    store.now_is += 4.0
    table.refresh()
    assert table.why_lost("one") == "lost: silent for 20 s"
    store.heartbeat("one", 1)
    table.refresh()
    assert not table.is_lost("one")


def test_a_node_whose_worker_has_left_stays_lost(store: Clocked, table: NodeTable) -> None:
    store.now_is += 16.0
    table.refresh()
    store.retire("one", 1)
    for _ in range(2):
        table.refresh()
        assert table.why_lost("one") == "lost: its worker has stopped"


def test_a_beat_from_before_the_clock_was_set_back_does_not_count(
    store: Clocked, table: NodeTable
) -> None:
    store.now_is -= 10.0
    table.refresh()
    assert table.is_lost("one")
    store.heartbeat("one", 1)
    table.refresh()
    assert not table.is_lost("one")


def test_a_node_that_nobody_knows_is_not_lost(table: NodeTable) -> None:
    assert (table.is_lost("none"), table.why_lost("none")) == (False, "")


def test_a_forgotten_node_leaves_it(store: Clocked, table: NodeTable) -> None:
    store.retire("one", 1)
    assert store.forget_node("one")
    table.refresh()
    assert [node.name for node in table.nodes()] == ["two"]


def test_with_the_store_away_nobody_becomes_lost(store: Clocked, table: NodeTable) -> None:
    store.away = True
    store.now_is += 3600.0
    with pytest.raises(StoreUnavailable):
        table.refresh()
    assert "as they were" in table.lose()
    assert not table.is_lost("one")


def test_what_waits_in_engines_is_as_their_nodes_said_last(
    store: Clocked, table: NodeTable
) -> None:
    store.heartbeat("one", 1, NodeReport(loads={"i1": Load(2, 7), "i2": Load(0, 4)}))
    store.heartbeat("two", 1, NodeReport(loads={"i3": Load(0, 3)}))
    table.refresh()
    waiting = [table.reported_waiting(name) for name in ("i1", "i2", "i3", "i4")]
    assert waiting == [7, 4, 3, 0]
    store.heartbeat("one", 1, NodeReport(loads={"i1": Load(0, 1)}))
    table.refresh()
    assert [table.reported_waiting(name) for name in ("i1", "i2", "i3")] == [1, 0, 3]


def test_who_waits_for_a_node_sees_it_change(store: Clocked, table: NodeTable) -> None:
    store.create(an_instance(), 3)
    store.cordon("one", drain=True)
    table.refresh()

    def drained() -> None:
        for status in (Status.STOPPING, Status.STOPPED):
            assert store.apply(
                Change(
                    instance_id=an_instance().instance_id,
                    node="one",
                    epoch=1,
                    generation=1,
                    status=status,
                )
            )
        table.refresh()

    timer = threading.Timer(0.05, drained)
    timer.start()
    node = table.wait_for("one", lambda now: now is not None and now.drained, 20.0)
    timer.join()
    assert node
    assert node.drained
    same = table.wait_for("one", lambda _: False, 0.01)
    assert same == node


def test_it_follows_the_store_and_reads_seldom_however_much_changes(
    store: Clocked, table: NodeTable
) -> None:
    table.start()
    try:
        assert until(lambda: store.reads > 1, 20)
        before = store.reads
        for number in range(500):
            store.cordon("one") if number % 2 else store.uncordon("one")
        store.cordon("two")
        assert until(lambda: table.nodes()[1].cordoned, 20)
        assert store.reads - before < 50
    finally:
        table.close()
