"""The routing table: what it knows, what it refuses and why, what it does without a store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from shared.domain.instance import Desired, Instance, Status
from shared.errors import InstanceNotReady, NotFound, StoreUnavailable
from shared.store import Change
from shared.store.memory import MemoryStore
from tests.builders import a_node, an_instance
from tests.demo.waiting import until
from web.routing import RoutingTable

WAY: dict[Status, tuple[Status, ...]] = {
    Status.PENDING: (),
    Status.STARTING: (Status.STARTING,),
    Status.RUNNING: (Status.STARTING, Status.RUNNING),
    Status.UNHEALTHY: (Status.STARTING, Status.RUNNING, Status.UNHEALTHY),
    Status.BACKOFF: (Status.STARTING, Status.BACKOFF),
    Status.FAILED: (Status.STARTING, Status.FAILED),
    Status.STOPPING: (Status.STOPPING,),
    Status.STOPPED: (Status.STOPPING, Status.STOPPED),
    Status.STOP_FAILED: (Status.STOPPING, Status.STOP_FAILED),
}


class CountingStore(MemoryStore):
    """A store that counts how often it is asked, and can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.away = False
        self.epoch = self.announce(a_node())

    def get(self, instance_id: str) -> Instance | None:
        self._ask()
        return super().get(instance_id)

    def instances(self, *, with_ended: bool = False) -> list[Instance]:
        self._ask()
        return super().instances(with_ended=with_ended)

    def changes(self, timeout_s: float) -> Iterator[str | None]:
        for change in super().changes(min(timeout_s, 0.05)):
            self._ask()
            yield change

    def hold(self, status: Status, **fields: Any) -> None:
        """Hold the instance `i1` in that status."""
        self.create(an_instance(instance_id="i1"), 9)
        for step in WAY[status]:
            self.move(step)
        self.move(status, **fields)

    def move(self, status: Status, **fields: Any) -> None:
        """Move the instance `i1` as its worker does."""
        record = MemoryStore.get(self, "i1")
        assert record is not None
        change = Change(
            instance_id="i1",
            node="one",
            epoch=self.epoch,
            generation=record.generation,
            status=status,
            fields=fields,
        )
        assert self.apply(change)

    def _ask(self) -> None:
        if self.away:
            raise StoreUnavailable("away")
        self.asked += 1


def a_table(status: Status, *, asked_to_stop: bool = False, **fields: Any) -> RoutingTable:
    """Return a table that knows the instance `i1` in that status."""
    store = CountingStore()
    store.hold(status, **fields)
    if asked_to_stop:
        store.stop("i1", reason="x", by="user")
    table = RoutingTable(store)
    table.refresh()
    return table


def test_a_running_instance_takes_requests() -> None:
    assert a_table(Status.RUNNING, port=9001).route("i1").port == 9001


@pytest.mark.parametrize(
    ("status", "fields", "message", "retry_after_s"),
    [
        ("pending", {}, "instance i1 is pending", 5),
        ("starting", {"stage": "launch"}, "instance i1 is starting, stage launch", 5),
        (
            "starting",
            {"stage": "weights", "progress": 0.5},
            "instance i1 is starting, stage weights 50%",
            5,
        ),
        ("backoff", {}, "instance i1 is backoff", 5),
        ("unhealthy", {"reason": "hung"}, "instance i1 is unhealthy: hung", None),
        ("failed", {"reason": "bad flag"}, "instance i1 is failed: bad flag", None),
        ("stopping", {}, "instance i1 is stopping", None),
        ("stop_failed", {"reason": "pids 7"}, "instance i1 is stop_failed: pids 7", None),
    ],
)
def test_a_refusal_says_what_is_so_and_when_to_ask_again(
    status: str, fields: dict[str, Any], message: str, retry_after_s: int | None
) -> None:
    with pytest.raises(InstanceNotReady) as raised:
        a_table(Status(status), **fields).route("i1")
    assert (str(raised.value), raised.value.retry_after_s) == (message, retry_after_s)


@pytest.mark.parametrize("status", ["pending", "starting", "running", "unhealthy", "backoff"])
def test_what_is_asked_to_stop_takes_no_request_and_never_will(status: str) -> None:
    with pytest.raises(InstanceNotReady, match="instance i1 is stopping") as raised:
        a_table(Status(status), asked_to_stop=True).route("i1")
    assert raised.value.retry_after_s is None


def test_what_has_ended_is_not_found() -> None:
    with pytest.raises(NotFound, match="instance i1 is stopped: enough"):
        a_table(Status.STOPPED, reason="enough").route("i1")


def test_what_never_was_is_not_found() -> None:
    with pytest.raises(NotFound, match="no instance nobody"):
        a_table(Status.RUNNING).route("nobody")


def test_a_known_instance_is_routed_without_asking_the_store() -> None:
    store = CountingStore()
    store.hold(Status.RUNNING)
    table = RoutingTable(store)
    table.refresh()
    before = store.asked
    table.route("i1")
    assert store.asked == before


def test_an_instance_created_a_moment_ago_is_found_by_asking() -> None:
    store = CountingStore()
    table = RoutingTable(store)
    store.hold(Status.RUNNING)
    assert table.route("i1").serving


def test_with_the_store_away_what_is_known_is_still_routed() -> None:
    store = CountingStore()
    store.hold(Status.RUNNING)
    table = RoutingTable(store)
    table.refresh()
    store.away = True
    assert table.route("i1").serving


def test_with_the_store_away_nobody_can_say_about_the_unknown() -> None:
    store = CountingStore()
    store.away = True
    with pytest.raises(StoreUnavailable):
        RoutingTable(store).route("i1")


def test_a_change_that_is_heard_is_known() -> None:
    store = CountingStore()
    store.hold(Status.RUNNING)
    table = RoutingTable(store)
    table.refresh()
    store.stop("i1", reason="x", by="user")
    table.hear("i1")
    assert table.find("i1").desired is Desired.STOPPED


def test_the_table_follows_the_store(following: tuple[CountingStore, RoutingTable]) -> None:
    store, table = following
    store.hold(Status.RUNNING)
    assert until(lambda: table.find("i1").serving, 5.0)


def test_the_table_follows_again_when_the_store_is_back(
    following: tuple[CountingStore, RoutingTable],
) -> None:
    store, table = following
    store.hold(Status.STARTING)
    store.away = True
    store.move(Status.RUNNING)
    store.away = False
    assert until(lambda: table.find("i1").serving, 5.0)


def test_a_wait_ends_with_the_change_that_is_waited_for(
    following: tuple[CountingStore, RoutingTable],
) -> None:
    store, table = following
    store.hold(Status.STARTING)
    later = threading.Timer(0.1, lambda: store.move(Status.RUNNING))
    later.start()
    begun = monotonic()
    instance = table.wait_for("i1", lambda seen: seen.serving, 20.0)
    later.join()
    assert instance.serving
    assert monotonic() - begun < 4.0


def test_a_wait_ends_when_its_time_is_up() -> None:
    table = a_table(Status.STARTING)
    assert table.wait_for("i1", lambda seen: seen.serving, 0.05).status is Status.STARTING


def test_nobody_waits_for_what_is_so_already() -> None:
    assert a_table(Status.RUNNING).wait_for("i1", lambda seen: seen.serving, 0.0).serving


def test_nobody_waits_for_what_does_not_exist() -> None:
    with pytest.raises(NotFound):
        a_table(Status.RUNNING).wait_for("nobody", lambda _: False, 20.0)


@pytest.fixture
def following() -> Iterator[tuple[CountingStore, RoutingTable]]:
    """Give a store and a table that follows it."""
    store = CountingStore()
    table = RoutingTable(store)
    table.start()
    yield store, table
    table.close()
