"""What feeds a web process's tables: notifications, full reads, and a store that goes away."""

from __future__ import annotations

import logging
import queue
from collections.abc import Collection, Generator, Iterator

import pytest

from shared.errors import StoreUnavailable
from tests.demo.waiting import until
from web.tables import following_store
from web.tables.following_store import FollowingStore

WAIT_S = 20.0


class ATable:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.away = False
        self.spoilt = False

    def hear(self, changed: Collection[str]) -> None:
        """Note it."""
        self.told.append(f"hear {' '.join(sorted(changed))}")
        if self.spoilt:
            raise ValueError("a record that cannot be read")

    def refresh(self) -> None:
        """Note it."""
        if self.away:
            raise StoreUnavailable("Redis does not answer")
        self.told.append("refresh")

    def lose(self) -> str:
        """Note it."""
        self.told.append("lose")
        return "the rest goes on"


class Changes:
    """What a store says: an id, nothing for a while, or that it is away."""

    def __init__(self) -> None:
        self.said: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()

    def __call__(self, timeout_s: float) -> Generator[frozenset[str]]:
        """Listen."""
        del timeout_s
        yield frozenset()
        while True:
            said = self.said.get()
            if isinstance(said, Exception):
                raise said
            yield frozenset(said.split() if said else ())


@pytest.fixture
def table() -> ATable:
    return ATable()


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
def following(
    table: ATable, changes: Changes, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FollowingStore]:
    monkeypatch.setattr(following_store, "_PAUSE_S", 0.01)
    following = FollowingStore("things", table, changes, refresh_s=3600)
    yield following
    following.close()
    changes.said.put(None)


def test_all_is_read_once_listening_has_begun_and_one_thing_when_it_changes(
    following: FollowingStore, table: ATable, changes: Changes
) -> None:
    following.start()
    following.wait_for_first_try(WAIT_S)
    changes.said.put("a")
    changes.said.put("b c")
    assert until(lambda: len(table.told) == 3, WAIT_S)
    assert table.told == ["refresh", "hear a", "hear b c"]


def test_all_is_read_again_when_nothing_was_heard_for_a_while(
    following: FollowingStore, table: ATable, changes: Changes
) -> None:
    following.start()
    changes.said.put(None)
    assert until(lambda: table.told == ["refresh", "refresh"], WAIT_S)


def test_all_is_read_again_also_while_changes_come_without_end(
    table: ATable, changes: Changes
) -> None:
    following = FollowingStore("things", table, changes, refresh_s=0)
    following.start()
    changes.said.put("a")
    assert until(lambda: table.told == ["refresh", "hear a", "refresh"], WAIT_S)
    following.close()
    changes.said.put(None)


def test_a_store_that_goes_away_is_told_of_once_and_tried_until_it_is_back(
    following: FollowingStore,
    table: ATable,
    changes: Changes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    table.away = True
    following.start()
    following.wait_for_first_try(WAIT_S)
    assert until(lambda: table.told.count("lose") > 2, WAIT_S)
    table.away = False
    assert until(lambda: "refresh" in table.told, WAIT_S)
    assert [r.message for r in caplog.records] == ["Redis does not answer; the rest goes on"]
    changes.said.put(StoreUnavailable("Redis refuses"))  # again, after it was there: that is news
    assert until(lambda: len(caplog.records) == 2, WAIT_S)


def test_a_record_that_cannot_be_read_does_not_end_it(
    following: FollowingStore,
    table: ATable,
    changes: Changes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    following.start()
    following.wait_for_first_try(WAIT_S)
    table.spoilt = True
    with caplog.at_level(logging.ERROR):
        changes.said.put("a")
        assert until(lambda: table.told.count("refresh") > 1, WAIT_S)
    assert "things not refreshed; trying again" in caplog.text
    table.spoilt = False
    changes.said.put("b")
    assert until(lambda: table.told[-1] == "hear b", WAIT_S)
