"""What callers of instances on lost nodes are told, and connections to machines that vanish."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from shared.domain.instance import Status
from shared.errors import InstanceNotReady
from shared.store.memory import MemoryStore
from tests.builders import a_node, an_instance
from web.proxy.engine_socket import notice_lost_host
from web.tables import lost_nodes
from web.tables.lost_nodes import LostNodes
from web.tables.routing import RoutingTable

ON_ONE = an_instance(status=Status.RUNNING)
SILENT = "lost: silent for 20 s"


class Fleet:
    """Nodes, of which some are lost."""

    def __init__(self) -> None:
        self.lost = {"one": SILENT}
        self.told = LostNodes(self.why_lost)

    def why_lost(self, name: str) -> str:
        return self.lost.get(name, "")


def test_a_caller_is_told_that_the_node_is_lost() -> None:
    refusal = Fleet().told.unreached(ON_ONE)
    assert isinstance(refusal, InstanceNotReady)
    assert str(refusal) == (
        f"instance {ON_ONE.instance_id} cannot be reached: node one is lost: silent for 20 s"
    )
    assert refusal.retry_after_s == 5


def test_of_a_living_node_it_is_a_gateways_error() -> None:
    fleet = Fleet()
    fleet.lost = {}
    assert fleet.told.unreached(ON_ONE) is None
    assert not fleet.told


def test_only_who_was_not_reached_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(lost_nodes, "monotonic", lambda: now[0])
    fleet = Fleet()
    assert fleet.told.refusal(ON_ONE) is None, "it may live although its worker is silent"
    fleet.told.unreached(ON_ONE)
    assert fleet.told.refusal(ON_ONE)
    assert fleet.told.refusal(an_instance(instance_id="other")) is None
    now[0] += 5.0
    assert fleet.told.refusal(ON_ONE) is None
    assert not fleet.told


def test_a_node_that_is_back_is_asked_at_once() -> None:
    fleet = Fleet()
    fleet.told.unreached(ON_ONE)
    fleet.lost = {}
    assert fleet.told.refusal(ON_ONE) is None


def test_what_is_remembered_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_nodes, "_MOST", 2)
    fleet = Fleet()
    several = [an_instance(instance_id=f"i{number}") for number in range(3)]
    for instance in several:
        fleet.told.unreached(instance)
    assert [bool(fleet.told.refusal(one)) for one in several] == [False, True, True]


def test_the_routing_table_refuses_it_meanwhile() -> None:
    store, fleet = MemoryStore(), Fleet()
    store.announce(a_node(), "worker")
    store.create(an_instance(), 9)
    store.restore(ON_ONE, epoch=1, over=0, reason="it runs")
    table = RoutingTable(store, why_lost=fleet.why_lost)
    table.refresh()
    name = ON_ONE.instance_id
    assert table.serving(name) == table.route(name)
    assert table.unreached(table.route(name))
    assert table.serving(name) is None
    with pytest.raises(InstanceNotReady, match="node one is lost"):
        table.route(name)
    fleet.lost = {}
    assert table.serving(name) == table.route(name)


@pytest.mark.parametrize(
    ("host", "kept"),
    [("10.0.0.7", 1), ("fd00::7", 1), ("127.0.0.1", 0), ("127.1.2.3", 0), ("::1", 0)],
)
def test_a_connection_to_another_machine_ends_with_it(host: str, kept: int) -> None:
    with closing(socket.socket()) as connection:
        notice_lost_host(connection, host)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == kept
        waits_ms = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert waits_ms == (25_000 if kept else 0)
