"""Asking the store about unknown instances: never a load, never a queue behind a dead Redis."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from shared.domain.instance import Desired, Instance
from shared.errors import InstanceNotReady, NotFound, RecordUnreadable, StoreUnavailable
from shared.store.memory import MemoryStore
from tests.builders import a_node, an_instance
from web.tables.lookup import Lookup


class AskedStore(MemoryStore):
    """A store that counts what it is asked, may take its time, and may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.away = False
        self.pause_s = 0.0

    def get(self, instance_id: str) -> Instance | None:
        """Return the record, or fail."""
        self.asked.append(instance_id)
        threading.Event().wait(self.pause_s)
        if self.away:
            raise StoreUnavailable("Redis does not answer")
        return super().get(instance_id)


class Clock:
    """Seconds, as the test says."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> AskedStore:
    store = AskedStore()
    store.announce(a_node(), "worker")
    return store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lookup(store: AskedStore, clock: Clock) -> Lookup:
    return Lookup(store, clock)


def outcomes(lookup: Lookup, *instance_ids: str) -> list[str]:
    """Return what comes of asking for each of them."""
    found = []
    for instance_id in instance_ids:
        try:
            found.append(lookup.get(instance_id).instance_id)
        except (NotFound, InstanceNotReady, RecordUnreadable, StoreUnavailable) as error:
            found.append(type(error).__name__)
    return found


def test_a_record_is_returned_and_read_once_a_second(
    store: AskedStore, lookup: Lookup, clock: Clock
) -> None:
    store.create(an_instance(instance_id="i1"), 9)
    assert outcomes(lookup, *["i1"] * 200) == ["i1"] * 200
    assert store.asked == ["i1"]
    clock.now = 1.0
    assert outcomes(lookup, "i1") == ["i1"]
    assert store.asked == ["i1", "i1"]


def test_nobody_is_asked_for_once_a_second(store: AskedStore, lookup: Lookup, clock: Clock) -> None:
    assert outcomes(lookup, "i1", "i1", "i1") == ["NotFound"] * 3
    assert store.asked == ["i1"]
    clock.now = 1.0
    store.create(an_instance(instance_id="i1"), 9)
    assert outcomes(lookup, "i1") == ["i1"]


def test_one_that_cannot_be_read_is_asked_for_once_a_second(
    store: AskedStore, lookup: Lookup
) -> None:
    store.create(an_instance(instance_id="i1"), 9)
    store.damage("i1")
    assert outcomes(lookup, "i1", "i1", "i1") == ["RecordUnreadable"] * 3
    assert store.asked == ["i1"]


def test_many_different_ids_are_no_load(store: AskedStore, lookup: Lookup, clock: Clock) -> None:
    names = [f"i{n}" for n in range(1000)]
    assert outcomes(lookup, *names) == ["NotFound"] * 100 + ["InstanceNotReady"] * 900
    assert len(store.asked) == 100
    clock.now = 1.0
    assert outcomes(lookup, "i999") == ["NotFound"]


def test_asking_for_too_many_says_when_to_ask_again(lookup: Lookup) -> None:
    outcomes(lookup, *(f"i{n}" for n in range(100)))
    with pytest.raises(InstanceNotReady) as refused:
        lookup.get("i100")
    assert refused.value.retry_after_s == 1


@pytest.mark.parametrize("name", ["", "I1", "-x", "a" * 64, "a/b", "a.b", "\u00e9"])
def test_what_cannot_be_an_id_is_not_asked_for(
    name: str, store: AskedStore, lookup: Lookup
) -> None:
    assert outcomes(lookup, name) == ["NotFound"]
    assert store.asked == []


def test_an_absent_store_is_asked_once_a_second(
    store: AskedStore, lookup: Lookup, clock: Clock
) -> None:
    store.away = True
    assert outcomes(lookup, "i1", "i2", "i1") == ["StoreUnavailable"] * 3
    assert store.asked == ["i1"]
    store.away = False
    clock.now = 1.0
    assert outcomes(lookup, "i1") == ["NotFound"]


def test_many_at_once_wait_for_one_answer_of_a_store_that_hangs(
    store: AskedStore, lookup: Lookup
) -> None:
    store.away = True
    store.pause_s = 0.2
    asking = [threading.Thread(target=outcomes, args=(lookup, f"i{n}")) for n in range(20)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(store.asked) == 1


def a_known(store: AskedStore) -> Instance:
    store.create(an_instance(instance_id="i1"), 9)
    known = store.get("i1")
    assert known
    store.asked.clear()
    return known


def test_what_has_changed_meanwhile_is_found_and_asked_for_each_twentieth_of_a_second(
    store: AskedStore, lookup: Lookup, clock: Clock
) -> None:
    known = a_known(store)
    assert [lookup.later(known) for _ in range(9)] == [known] * 9
    assert store.asked == ["i1"]
    store.stop("i1", by="user", reason="")
    clock.now = 0.06
    assert lookup.later(known).desired is Desired.STOPPED
    assert store.asked == ["i1", "i1"]


def test_an_older_answer_is_not_taken_for_a_later_one(store: AskedStore, lookup: Lookup) -> None:
    known = a_known(store)
    lookup.get("i1")
    newer = replace(known, revision=known.revision + 1)
    assert lookup.later(newer) is newer


def test_what_is_known_holds_where_nobody_can_be_asked(
    store: AskedStore, lookup: Lookup, clock: Clock
) -> None:
    known = a_known(store)
    store.away = True
    assert lookup.later(known) is known
    store.away, clock.now = False, 1.0
    outcomes(lookup, *(f"n{number}" for number in range(100)))
    assert lookup.later(known) is known  # too many have been asked for
