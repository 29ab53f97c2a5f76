"""Who may be forgotten: what was placed on a node that is lost, and nothing else."""

from __future__ import annotations

import pytest

from shared.domain.instance import Desired, Status
from shared.errors import Conflict
from shared.store import KEEP_ENDED_S
from shared.store.memory import MemoryStore
from tests.builders import a_node, an_instance
from web.control.forgetting import forget

LONG = 60.0  # seconds: longer than a node may be silent


class Clock:
    """What time it is; a test moves it on."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def a_store(clock: Clock) -> MemoryStore:
    """Return a store with one node and one instance on it, asked to stop."""
    store = MemoryStore(clock)
    store.announce(a_node(), "worker")
    store.create(an_instance(), 3)
    store.stop("tiny-aaaaaaaa", reason="deleted by request", by="user")
    return store


def test_an_instance_of_a_lost_node_ends_and_its_place_is_free() -> None:
    clock = Clock()
    store = a_store(clock)
    clock.now += LONG
    [asked] = store.instances()
    gone = forget(store, asked, "ann (key k1)")
    assert (gone.status, gone.desired) == (Status.STOPPED, Desired.STOPPED)
    assert "may still run there" in gone.reason
    assert store.nodes()[0].claims == ()
    told = [(event.status, event.by, event.who) for event in store.events("tiny-aaaaaaaa")]
    assert told[-2:] == [("stopping", "user", "ann (key k1)"), ("stopped", "user", "ann (key k1)")]


def test_a_node_that_returns_after_days_still_finds_that_it_ended() -> None:
    """Where it found no record, it would write its own back, and start the engine again."""
    clock = Clock()
    store = a_store(clock)
    clock.now += LONG
    [asked] = store.instances()
    forget(store, asked, "ann")
    clock.now += 30 * KEEP_ENDED_S
    assert store.instances(with_ended=True) == []
    found = store.get("tiny-aaaaaaaa")
    assert found is not None
    assert found.status is Status.STOPPED


def test_one_of_a_living_node_is_not_forgotten() -> None:
    store = a_store(Clock())
    [asked] = store.instances()
    with pytest.raises(Conflict, match="has a living worker"):
        forget(store, asked, "ann")
    assert store.instances() == [asked]


def test_a_worker_that_comes_back_in_between_is_heard_instead() -> None:
    clock = Clock()
    store = a_store(clock)
    clock.now += LONG
    [asked] = store.instances()
    node = store.node("one")
    store.announce(a_node(), "worker")  # right after its node was read
    store.node = lambda name: node if name == "one" else None  # type: ignore[method-assign]
    with pytest.raises(Conflict, match="has just changed"):
        forget(store, asked, "ann")
    assert store.instances() == [asked]
