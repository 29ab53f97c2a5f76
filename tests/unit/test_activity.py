"""Which instances are in use: the whole time of a request, and once more at its end."""

import threading
from collections.abc import Collection

import pytest

from shared.errors import StoreUnavailable
from shared.store.memory import MemoryStore
from web.tables.activity import Activity


class TouchedStore(MemoryStore):
    """A store that remembers what was touched, and whose server can go away."""

    def __init__(self) -> None:
        super().__init__()
        self.touched: list[set[str]] = []
        self.last_under_way: set[str] = set()
        self.away = False

    def touch(self, under_way: Collection[str], *, ended: Collection[str] = ()) -> None:
        """Remember who is in use or was, or fail."""
        if self.away:
            raise StoreUnavailable("Redis does not answer")
        self.touched.append({*under_way, *ended})
        self.last_under_way = set(under_way)


@pytest.fixture
def store() -> TouchedStore:
    return TouchedStore()


@pytest.fixture
def activity(store: TouchedStore) -> Activity:
    return Activity(store)


def test_a_request_under_way_is_reported_each_time(store: TouchedStore, activity: Activity) -> None:
    activity.begin("i1")
    activity.report()
    activity.report()
    assert store.touched == [{"i1"}, {"i1"}]


def test_the_end_of_a_request_is_reported_once(store: TouchedStore, activity: Activity) -> None:
    activity.begin("i1")
    activity.end("i1")
    activity.report()
    activity.report()
    assert store.touched == [{"i1"}, set()]


def test_of_two_requests_the_last_one_counts(store: TouchedStore, activity: Activity) -> None:
    activity.begin("i1")
    activity.begin("i1")
    activity.end("i1")
    activity.report()
    activity.report()
    assert store.touched == [{"i1"}, {"i1"}]


def test_instances_are_counted_apart(store: TouchedStore, activity: Activity) -> None:
    activity.begin("i1")
    activity.begin("i2")
    activity.end("i2")
    activity.report()
    assert store.last_under_way == {"i1"}
    activity.report()
    assert store.touched == [{"i1", "i2"}, {"i1"}]


def test_with_the_store_away_nothing_is_forgotten(store: TouchedStore, activity: Activity) -> None:
    activity.begin("i1")
    activity.end("i1")
    store.away = True
    with pytest.raises(StoreUnavailable):
        activity.report()
    store.away = False
    activity.report()
    assert store.touched == [{"i1"}]


def test_what_is_under_way_is_counted(activity: Activity) -> None:
    for instance_id in ("i1", "i1", "i2", "i3"):
        activity.begin(instance_id)
    activity.end("i1")
    activity.end("i2")
    assert activity.in_flight() == {"i1": 1, "i3": 1}


def test_threads_lose_no_count(activity: Activity) -> None:
    def use() -> None:
        for _ in range(20_000):
            activity.begin("i1")
            activity.end("i1")

    threads = [threading.Thread(target=use) for _ in range(4)]
    activity.begin("i1")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert activity.in_flight() == {"i1": 1}
