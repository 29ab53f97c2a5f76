"""Which instances are in use, as the store is told."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from shared.errors import StoreUnavailable
from shared.store.memory import MemoryStore
from web.activity import Activity


class Ear(MemoryStore):
    """A store that remembers each touch, and can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[set[str]] = []
        self.away = False

    def touch(self, instance_ids: Collection[str]) -> None:
        if self.away:
            raise StoreUnavailable("away")
        self.heard.append(set(instance_ids))


def test_a_request_under_way_is_reported_each_time() -> None:
    ear = Ear()
    activity = Activity(ear)
    activity.begin("i1")
    activity.report()
    activity.report()
    assert ear.heard == [{"i1"}, {"i1"}]


def test_the_end_of_the_last_request_is_reported_once() -> None:
    ear = Ear()
    activity = Activity(ear)
    activity.begin("i1")
    activity.end("i1")
    activity.report()
    activity.report()
    assert ear.heard == [{"i1"}, set()]


def test_an_instance_is_in_use_until_its_last_request_ends() -> None:
    ear = Ear()
    activity = Activity(ear)
    activity.begin("i1")
    activity.begin("i1")
    activity.end("i1")
    activity.report()
    activity.report()
    assert ear.heard == [{"i1"}, {"i1"}]


def test_all_that_are_used_are_reported_together() -> None:
    ear = Ear()
    activity = Activity(ear)
    activity.begin("i1")
    activity.begin("i2")
    activity.end("i2")
    activity.report()
    assert ear.heard == [{"i1", "i2"}]


def test_what_the_store_did_not_hear_is_said_again() -> None:
    ear = Ear()
    activity = Activity(ear)
    activity.begin("i1")
    activity.end("i1")
    ear.away = True
    with pytest.raises(StoreUnavailable):
        activity.report()
    ear.away = False
    activity.report()
    assert ear.heard == [{"i1"}]
