"""One web process's routing table: where it sends requests, why it does not, how it waits."""

import threading
from collections.abc import Collection, Generator, Iterator
from time import monotonic
from typing import Any

import pytest

from shared.domain.instance import Desired, Instance, Status
from shared.domain.wanted import Wanted
from shared.errors import InstanceNotReady, NotFound, RecordUnreadable, StoreUnavailable
from shared.store import Change, Since
from shared.store.memory import MemoryStore
from tests.builders import a_node, an_instance
from tests.demo.waiting import until
from web.tables.routing import RoutingTable


class AwayStore(MemoryStore):
    """A store whose server can go away, or lose everything, and that remembers what was read."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.read: list[str] = []  # ids, one by one
        self.late: dict[str, Instance] = {}  # answers that are late: meanwhile it has changed

    def get(self, instance_id: str) -> Instance | None:
        """Return the record, or fail."""
        if self.away:
            raise StoreUnavailable("Redis does not answer")
        self.read.append(instance_id)
        return super().get(instance_id)

    def several(self, instance_ids: Collection[str]) -> dict[str, Instance | None]:
        """Return the records, or fail."""
        if self.away:
            raise StoreUnavailable("Redis does not answer")
        self.read += instance_ids
        return {**super().several(instance_ids), **self.late}

    def instances_since(self, cursor: str) -> Since:
        """Return what has changed, or fail."""
        if self.away:
            raise StoreUnavailable("Redis does not answer")
        return super().instances_since(cursor)

    def changes(self, timeout_s: float) -> Generator[frozenset[str]]:
        """Yield what changes, or fail."""
        if self.away:
            raise StoreUnavailable("Redis does not answer")
        yield from super().changes(timeout_s)

    def flush(self) -> None:
        """Lose all records, as FLUSHALL does: nobody is told."""
        self._instances.clear()
        self._line.clear()


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


def test_a_known_instance_whose_record_cannot_be_read_any_more_stays_where_it_is(
    store: AwayStore, table: RoutingTable
) -> None:
    put(store, Status.STARTING, Status.RUNNING)
    table.refresh()
    store.damage("i1")
    table.hear(["i1"])
    table.refresh()
    assert table.route("i1").serving


def test_an_unknown_instance_whose_record_cannot_be_read_is_said_to_be_there(
    store: AwayStore, table: RoutingTable
) -> None:
    put(store, Status.STARTING, Status.RUNNING)
    store.damage("i1")
    table.refresh()
    with pytest.raises(RecordUnreadable, match="its record cannot be read"):
        table.route("i1")


def test_one_that_can_be_read_again_is_taken_though_nobody_says_so(
    store: AwayStore, table: RoutingTable
) -> None:
    put(store, Status.STARTING, Status.RUNNING)
    store.damage("i1")
    table.refresh()
    table.refresh()
    store.damage()
    table.refresh()
    assert table.serving("i1") == store.get("i1")


def test_one_that_has_come_up_takes_requests_before_the_table_hears_of_it(
    store: AwayStore, table: RoutingTable
) -> None:
    put(store)
    table.refresh()
    with pytest.raises(InstanceNotReady):
        table.route("i1")
    move(store, Status.STARTING, Status.RUNNING)
    assert until(lambda: not refuses(table), 5)
    assert table.serving("i1") is not None  # without asking again


def test_what_was_just_deleted_takes_no_requests_whatever_was_read_before(
    store: AwayStore, table: RoutingTable
) -> None:
    put(store, Status.STARTING, Status.RUNNING)
    table.refresh()
    before = store.get("i1")
    stopped = store.stop("i1", reason="deleted by request", by="user")
    assert before is not None
    assert stopped is not None
    table.learn(stopped)
    assert refuses(table)
    store.late["i1"] = before
    table.hear(["i1"])  # read before it was deleted
    assert refuses(table)
    table.learn(before)
    assert refuses(table)


def test_what_ended_is_not_learnt_again(store: AwayStore, table: RoutingTable) -> None:
    put(store, Status.STARTING, Status.RUNNING)
    before = store.get("i1")
    assert before is not None
    store.stop("i1", reason="deleted by request", by="user")
    move(store, Status.STOPPING, Status.STOPPED)
    table.refresh()
    table.hear(["i1"])
    table.learn(before)
    assert table.serving("i1") is None


def refuses(table: RoutingTable) -> bool:
    try:
        table.route("i1")
    except InstanceNotReady:
        return True
    return False


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


def refused(table: RoutingTable, instance_id: str = "i1") -> InstanceNotReady:
    """Return the refusal of a request to an instance."""
    with pytest.raises(InstanceNotReady) as refusal:
        table.route(instance_id)
    return refusal.value


def test_a_stopped_instance_says_why_and_not_to_ask_again(
    store: AwayStore, table: RoutingTable
) -> None:
    put(store, Status.STOPPING, Status.STOPPED, reason="enough")
    refusal = refused(table)
    assert (str(refusal), refusal.retry_after_s) == ("instance i1 is stopped: enough", None)


@pytest.mark.parametrize("told", [True, False])
def test_a_stopped_instance_is_remembered_without_the_store(
    store: AwayStore, table: RoutingTable, *, told: bool
) -> None:
    put(store, Status.STARTING, Status.RUNNING)
    table.refresh()
    move(store, Status.STOPPING, Status.STOPPED, reason="enough")
    if told:
        table.hear(["i1"])
    else:  # the notification was lost
        table.refresh()
    store.away = True
    assert str(refused(table)) == "instance i1 is stopped: enough"


def test_a_stopped_instance_is_asked_for_once(store: AwayStore, table: RoutingTable) -> None:
    put(store, Status.STOPPING, Status.STOPPED)
    store.read.clear()
    for _ in range(3):
        refused(table)
    assert store.read == ["i1"]


def test_of_stopped_instances_the_newest_are_remembered(
    store: AwayStore, table: RoutingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.tables.routing._MOST_ENDED", 2)
    for name in ("i1", "i2", "i3"):
        store.create(an_instance(instance_id=name), 9)
    table.refresh()
    store.flush()
    table.refresh()
    assert [table.knows(name) for name in ("i1", "i2", "i3")].count(False) == 1


def test_what_the_event_loop_asks_is_only_what_takes_requests(
    store: AwayStore, table: RoutingTable
) -> None:
    put(store, Status.STARTING)
    table.refresh()
    assert table.serving("i1") is None
    move(store, Status.RUNNING)
    table.hear(["i1"])
    assert table.serving("i1") is table.find("i1")
    store.stop("i1", reason="enough", by="user")
    table.hear(["i1"])
    assert table.serving("i1") is None


# records that the store has lost


@pytest.fixture
def flushed(store: AwayStore, table: RoutingTable) -> RoutingTable:
    """Return a table that knows the running i1, whose store has lost everything."""
    put(store, Status.STARTING, Status.RUNNING, port=9000)
    table.refresh()
    store.flush()
    return table


def test_a_running_instance_outlives_its_record(flushed: RoutingTable) -> None:
    flushed.refresh()
    flushed.hear(["i1"])
    assert flushed.route("i1").port == 9000
    assert flushed.serving("i1")


def test_a_lost_record_is_logged_once_and_looked_for_once(
    store: AwayStore, flushed: RoutingTable, caplog: pytest.LogCaptureFixture
) -> None:
    store.read.clear()
    for _ in range(3):
        flushed.refresh()
    assert [record.message for record in caplog.records] == [
        "Redis has lost the record of i1; requests to it go on"
    ]
    assert store.read == ["i1"]


def many(store: AwayStore, count: int) -> set[str]:
    """Record instances; return their ids."""
    names = {f"i{number}" for number in range(count)}
    for name in names:
        store.create(an_instance(instance_id=name), count)
    return names


def test_a_refresh_reads_what_has_changed_and_of_the_rest_a_few_in_turn(
    store: AwayStore, table: RoutingTable
) -> None:
    names = many(store, 250)
    table.refresh()
    store.read.clear()
    checked: set[str] = set()
    for _ in range(5):
        table.refresh()
        assert 0 < len(store.read) <= 50
        assert checked.isdisjoint(store.read)
        checked.update(store.read)
        store.read.clear()
    assert checked == names
    move(store, Status.STARTING)
    store.read.clear()
    table.refresh()
    assert len(store.read) <= 51
    assert table.find("i1").status is Status.STARTING


def test_a_store_that_was_away_is_read_whole(store: AwayStore, table: RoutingTable) -> None:
    many(store, 250)
    table.refresh()
    table.lose()
    store._instances.pop("i7")  # noqa: SLF001 - it has gone back to an older copy, say
    table.refresh()
    assert table.standing().instances == 249


def test_a_record_that_comes_back_counts_again(store: AwayStore, flushed: RoutingTable) -> None:
    flushed.refresh()
    put(store, Status.STARTING, Status.RUNNING, port=9001)
    flushed.refresh()
    assert flushed.route("i1").port == 9001
    move(store, Status.STOPPING, Status.STOPPED)
    flushed.refresh()
    assert str(refused(flushed)) == "instance i1 is stopped"


def test_what_did_not_run_does_not_outlive_its_record(
    store: AwayStore, table: RoutingTable
) -> None:
    put(store, Status.STARTING)
    table.refresh()
    store.flush()
    table.refresh()
    assert str(refused(table)) == "instance i1 is not known any more: Redis has no record of it"
    assert table.standing().instances == 0


def test_an_engine_without_a_record_that_is_gone_is_stopped(
    flushed: RoutingTable,
) -> None:
    known = flushed.route("i1")
    flushed.refresh()
    assert "is stopped: its engine is gone, and so is its record" in str(flushed.gone(known))
    assert "is stopped: its engine is gone, and so is its record" in str(refused(flushed))
    assert (flushed.serving("i1"), flushed.standing().instances) == (None, 0)


def test_an_engine_with_a_record_that_is_gone_is_its_workers_business(
    store: AwayStore, table: RoutingTable
) -> None:
    put(store, Status.STARTING, Status.RUNNING)
    table.refresh()
    assert table.gone(table.route("i1")) is None
    assert table.serving("i1")


def test_of_instances_without_a_record_the_newest_are_kept(
    flushed: RoutingTable, store: AwayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.tables.routing._MOST_UNRECORDED", 1)
    flushed.refresh()
    store.create(an_instance(instance_id="i2"), 9)
    for status in (Status.STARTING, Status.RUNNING):
        change = Change(instance_id="i2", node="one", epoch=1, generation=1, status=status)
        assert store.apply(change)
    flushed.refresh()
    store.flush()
    flushed.refresh()
    assert flushed.serving("i2")
    assert "is not known any more" in str(refused(flushed))


def test_hearing_of_a_change_reads_it(store: AwayStore, table: RoutingTable) -> None:
    put(store, Status.STARTING)
    table.refresh()
    move(store, Status.RUNNING)
    table.hear(["i1"])
    assert table.route("i1").serving


def test_what_has_ended_leaves_the_table(store: AwayStore, table: RoutingTable) -> None:
    put(store)
    table.refresh()
    move(store, Status.STOPPING, Status.STOPPED)
    table.hear(["i1"])
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


def test_a_table_that_lost_its_store_says_so_without_asking_it(
    store: AwayStore, following: RoutingTable
) -> None:
    put(store, Status.STARTING, Status.RUNNING)
    assert until(lambda: following.serving("i1"), 5.0)
    assert following.standing().store_up
    store.away = True
    store.stop("i1", reason="enough", by="user")  # wakes the table, which then cannot read it
    assert until(lambda: not following.standing().store_up, 5.0)
    known = following.route("i1")
    assert "Redis, which could say why, is away" in str(following.gone(known))
    with pytest.raises(StoreUnavailable, match="i2 is not known here, and Redis does not answer"):
        following.route("i2")
    store.away = False
    assert until(lambda: following.standing().store_up, 5.0)
    assert until(lambda: following.find("i1").desired is Desired.STOPPED, 5.0)


def test_who_waits_in_line_is_remembered_when_the_store_is_emptied(
    store: AwayStore, table: RoutingTable
) -> None:
    for name, priority in [("w1", 0), ("w2", 5), ("w3", 0), ("w4", 0)]:
        wanted = Wanted(priority=priority)
        assert store.create(an_instance(instance_id=name, node="", wanted=wanted), 0)
    store.stop("w3", reason="deleted", by="user")
    table.refresh()
    store.flush()
    other = RoutingTable(store)  # has never heard of them
    other.refresh()
    table.lose()
    table.refresh()
    other.refresh()
    assert [one.instance_id for one in store.waiting(9)] == ["w2", "w1", "w4"]
    assert table.find("w1").waiting
    assert other.find("w4").waiting


def test_changes_that_follow_at_once_are_read_together() -> None:
    store = AwayStore()
    table = RoutingTable(store)
    begun = monotonic()
    table.hear(["a"])
    table.hear(["b"])  # what else changes meanwhile is heard in one go
    assert monotonic() - begun >= 0.02
