"""One web process's routing table: where it sends requests, why it does not, how it waits."""

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


class AwayStore(MemoryStore):
    """A store whose server can go away."""

    away = False

    def get(self, instance_id: str) -> Instance | None:
        """Return the record, or fail."""
        if self.away:
            raise StoreUnavailable("Redis does not answer")
        return super().get(instance_id)


@pytest.fixture
def store() -> AwayStore:
    store = AwayStore()
    store.announce(a_node(), "worker")
    return store


@pytest.fixture
def table(store: AwayStore) -> RoutingTable:
    return RoutingTable(store)


def put(store: MemoryStore, *statuses: Status, **fields: Any) -> str:
    """Record the instance `i1` and move it along; return its id."""
    store.create(an_instance(instance_id="i1"), 9)
    move(store, *statuses, **fields)
    return "i1"


def move(store: MemoryStore, *statuses: Status, **fields: Any) -> None:
    """Move the instance `i1` along."""
    for status in statuses:
        record = store.get("i1")
        assert record
        change = Change(
            instance_id="i1",
            node="one",
            epoch=1,
            generation=record.generation,
            status=status,
            fields=fields,
        )
        assert store.apply(change)


def test_a_running_instance_is_routed_to(store: AwayStore, table: RoutingTable) -> None:
    put(store, Status.STARTING, Status.RUNNING, port=9000)
    assert table.route("i1").port == 9000


def test_an_instance_that_the_table_does_not_know_is_asked_for(
    store: AwayStore, table: RoutingTable
) -> None:
    table.refresh()
    put(store)
    assert table.find("i1").instance_id == "i1"


def test_a_known_instance_is_routed_to_with_the_store_away(
    store: AwayStore, table: RoutingTable
) -> None:
    put(store, Status.STARTING, Status.RUNNING)
    table.refresh()
    store.away = True
    assert table.route("i1").serving


def test_an_unknown_instance_cannot_be_found_with_the_store_away(
    store: AwayStore, table: RoutingTable
) -> None:
    store.away = True
    with pytest.raises(StoreUnavailable):
        table.route("i1")


def test_nobody_is_not_found(table: RoutingTable) -> None:
    with pytest.raises(NotFound, match="no instance i1"):
        table.route("i1")


@pytest.mark.parametrize(
    ("statuses", "said", "retry_after_s"),
    [
        ([], "instance i1 is pending", 5),
        ([Status.STARTING], "is starting", 5),
        ([Status.STARTING, Status.BACKOFF], "is backoff", 5),
        ([Status.FAILED], "is failed: bad flag", None),
        ([Status.STARTING, Status.RUNNING, Status.UNHEALTHY], "is unhealthy", None),
        ([Status.STOPPING], "is stopping", None),
        ([Status.STOPPING, Status.STOP_FAILED], "is stop_failed", None),
    ],
)
def test_a_refusal_says_what_is_so_and_when_to_ask_again(
    statuses: list[Status], said: str, retry_after_s: int | None, store: AwayStore
) -> None:
    put(store, *statuses, reason="bad flag")
    with pytest.raises(InstanceNotReady, match=said) as refused:
        RoutingTable(store).route("i1")
    assert refused.value.retry_after_s == retry_after_s


@pytest.mark.parametrize(
    ("progress", "said"), [(None, "stage weights$"), (0.42, "stage weights 42%$")]
)
def test_a_refusal_says_how_far_the_load_is(
    progress: float | None, said: str, store: AwayStore, table: RoutingTable
) -> None:
    put(store, Status.STARTING, stage="weights", progress=progress)
    with pytest.raises(InstanceNotReady, match=said):
        table.route("i1")


def test_an_instance_that_is_asked_to_stop_takes_no_requests(
    store: AwayStore, table: RoutingTable
) -> None:
    put(store, Status.STARTING, Status.RUNNING)
    store.stop("i1", reason="enough", by="user")
    with pytest.raises(InstanceNotReady, match="is stopping"):
        table.route("i1")


def test_a_stopped_instance_is_not_found(store: AwayStore, table: RoutingTable) -> None:
    put(store, Status.STOPPING, Status.STOPPED, reason="enough")
    with pytest.raises(NotFound, match="instance i1 is stopped: enough"):
        table.route("i1")


def test_hearing_of_a_change_reads_it(store: AwayStore, table: RoutingTable) -> None:
    put(store, Status.STARTING)
    table.refresh()
    move(store, Status.RUNNING)
    table.hear("i1")
    assert table.route("i1").serving


def test_what_has_ended_leaves_the_table(store: AwayStore, table: RoutingTable) -> None:
    put(store)
    table.refresh()
    move(store, Status.STOPPING, Status.STOPPED)
    table.hear("i1")
    store.away = True
    with pytest.raises(StoreUnavailable):
        table.find("i1")


# waiting


def settled(instance: Instance) -> bool:
    """Say whether the instance runs."""
    return instance.status is Status.RUNNING


def test_waiting_for_what_is_so_takes_no_time(store: AwayStore, table: RoutingTable) -> None:
    put(store, Status.STARTING, Status.RUNNING)
    assert table.wait_for("i1", settled, 20.0).status is Status.RUNNING


def test_waiting_ends_when_the_time_is_up(store: AwayStore, table: RoutingTable) -> None:
    put(store)
    table.refresh()
    begun = monotonic()
    found = table.wait_for("i1", settled, 0.05)
    assert (found.status, monotonic() - begun < 2.0) == (Status.PENDING, True)


def test_waiting_for_nobody_is_refused(table: RoutingTable) -> None:
    with pytest.raises(NotFound):
        table.wait_for("i1", settled, 20.0)


@pytest.fixture
def following(table: RoutingTable) -> Iterator[RoutingTable]:
    """Have a table follow its store; it ends with the test."""
    table.start()
    yield table
    table.close()


def test_a_waiter_is_woken_by_the_change(store: AwayStore, following: RoutingTable) -> None:
    put(store, Status.STARTING)
    change = threading.Timer(0.05, move, (store, Status.RUNNING))
    change.start()
    begun = monotonic()
    found = following.wait_for("i1", settled, 20.0)
    change.join()
    assert (found.status, monotonic() - begun < 2.0) == (Status.RUNNING, True)


def test_a_table_that_follows_hears_of_a_stop(store: AwayStore, following: RoutingTable) -> None:
    put(store, Status.STARTING, Status.RUNNING)
    store.stop("i1", reason="enough", by="user")
    assert until(lambda: following.find("i1").desired is Desired.STOPPED, 5.0)
