"""One web process's table of keys: whose key it is, what it does while the store is away."""

import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.key import Key, Scope
from shared.errors import StoreUnavailable, Unauthorized
from shared.store.memory import MemoryStore
from tests.builders import a_key
from tests.demo.waiting import until
from web.access import keys as keys_module
from web.access.keys import KeysState, KeyTable

START = 1_000_000.0


class AwayStore(MemoryStore):
    """A store whose server can go away or lose all, and whose time can pass."""

    def __init__(self) -> None:
        self.time = START
        self.away = False
        self.lost = False
        super().__init__(clock=lambda: self.time)

    def api_keys(self) -> list[Key]:
        """Return the keys, or fail."""
        if self.away:
            raise StoreUnavailable("Redis does not answer")
        return [] if self.lost else super().api_keys()


@pytest.fixture
def store() -> AwayStore:
    return AwayStore()


@pytest.fixture
def table(store: AwayStore) -> KeyTable:
    return KeyTable(store)


def put(store: AwayStore, **changes: object) -> bytes:
    """Record a key; return its token."""
    key, token = a_key(**changes)
    assert store.add_key(key)
    return token


def test_a_table_that_was_never_read_answers_nobody(table: KeyTable) -> None:
    assert table.state is KeysState.UNKNOWN
    with pytest.raises(StoreUnavailable):
        table.caller(None)


def test_a_fleet_without_keys_is_open(table: KeyTable) -> None:
    table.refresh()
    assert table.state is KeysState.OPEN


def test_a_good_key_is_somebodys(store: AwayStore, table: KeyTable) -> None:
    token = put(store, name="ann", scope=Scope.INFERENCE, models=("org/*",))
    table.refresh()
    found = table.caller(token)
    assert (found.name, found.scope, found.models) == ("ann", Scope.INFERENCE, ("org/*",))
    assert found.key_id == token.split(b"_")[1].decode()
    assert table.state is KeysState.KEYED


def test_a_request_without_a_key_is_told_what_to_send(store: AwayStore, table: KeyTable) -> None:
    put(store)
    table.refresh()
    with pytest.raises(Unauthorized, match="no API key: send your key as `Authorization: Bearer"):
        table.caller(None)


def test_another_secret_with_a_known_id_opens_nothing(store: AwayStore, table: KeyTable) -> None:
    token = put(store)
    table.refresh()
    for spoilt in (token[:-2] + b"__", token[:13] + b"A" * 43, token[:12], token + b"x"):
        assert table.principal(spoilt) is None
        with pytest.raises(Unauthorized, match="unknown, expired or revoked"):
            table.caller(spoilt)


@given(st.binary(max_size=300))
def test_any_bytes_are_nobody(token: bytes) -> None:
    store = AwayStore()
    put(store)
    table = KeyTable(store)
    table.refresh()
    assert table.principal(token) is None


def test_an_unknown_id_is_compared_too(
    store: AwayStore, table: KeyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store)
    table.refresh()
    compared: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return True  # even if it were the same

    monkeypatch.setattr(keys_module, "compare_digest", compare)
    unknown = a_key()[1]
    assert table.principal(unknown) is None
    assert table.principal(b"garbage") is None
    assert compared == [(32, 32)] * 2


def test_a_revoked_key_opens_nothing_and_the_fleet_stays_keyed(
    store: AwayStore, table: KeyTable
) -> None:
    token = put(store)
    table.refresh()
    assert table.principal(token)
    store.revoke_key(token.split(b"_")[1].decode())
    table.refresh()
    assert table.principal(token) is None
    assert table.state is KeysState.KEYED


def test_a_key_expires_by_the_stores_clock(store: AwayStore, table: KeyTable) -> None:
    token = put(store, expires_at=START + 100)
    store.time = START + 99
    table.refresh()
    assert table.principal(token)
    store.time = START + 100
    table.refresh()
    assert table.principal(token) is None


def test_a_key_expires_without_the_store(store: AwayStore, table: KeyTable) -> None:
    token = put(store, expires_at=START + 0.2)
    table.refresh()
    store.away = True
    assert table.principal(token)
    assert until(lambda: table.principal(token) is None, 2.0)


def test_known_keys_work_with_the_store_away(store: AwayStore, table: KeyTable) -> None:
    token = put(store)
    table.refresh()
    store.away = True
    with pytest.raises(StoreUnavailable):
        table.refresh()
    assert table.principal(token)


def test_a_store_that_lost_all_keys_takes_none_away_and_opens_nothing(
    store: AwayStore, table: KeyTable, caplog: pytest.LogCaptureFixture
) -> None:
    token = put(store)
    table.refresh()
    store.lost = True
    with caplog.at_level(logging.WARNING):
        table.refresh()
        table.refresh()
    assert table.state is KeysState.KEYED
    assert table.principal(token)
    assert [record.message for record in caplog.records] == [
        "the store has lost all API keys; those known go on working here"
    ]


def test_a_rotated_key_and_its_successor_work_until_the_overlap_ends(
    store: AwayStore, table: KeyTable
) -> None:
    old = put(store)
    successor, new = a_key()
    store.rotate_key(old.split(b"_")[1].decode(), successor, 60)
    table.refresh()
    assert table.principal(old)
    assert table.principal(new)
    store.time += 60
    table.refresh()
    assert table.principal(old) is None
    assert table.principal(new)


@pytest.fixture
def following(table: KeyTable) -> Iterator[KeyTable]:
    """Have a table follow its store; it ends with the test."""
    table.start()
    yield table
    table.close()


def test_a_table_that_follows_hears_of_new_and_revoked_keys(
    store: AwayStore, following: KeyTable
) -> None:
    token = put(store)
    assert until(lambda: following.principal(token), 2.0)
    store.revoke_key(token.split(b"_")[1].decode())
    assert until(lambda: following.principal(token) is None, 2.0)


def test_a_table_that_starts_without_a_store_catches_up(store: AwayStore, table: KeyTable) -> None:
    store.away = True
    table.start()
    try:
        assert table.state is KeysState.UNKNOWN
        store.away = False
        assert until(lambda: table.state is KeysState.OPEN, 3.0)
    finally:
        table.close()
