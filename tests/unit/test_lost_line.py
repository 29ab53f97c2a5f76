"""Who waited in line when the store was emptied, and is put in line again."""

from __future__ import annotations

from shared.store.memory import MemoryStore
from tests.builders import an_instance
from web.tables.lost_line import with_rejoined


def test_all_who_wait_join_again_in_line_though_one_alone_is_missed_first() -> None:
    known = {
        name: an_instance(instance_id=name, node="", created_at=at)
        for name, at in (("second", 2.0), ("first", 1.0))
    }
    store = MemoryStore()
    found = with_rejoined(store, known, {"second": None})
    assert [one.instance_id for one in store.waiting(9)] == ["first", "second"]
    assert [name for name, record in found.items() if record] == ["second", "first"]


def test_who_still_waits_keeps_the_place_and_who_has_one_or_ended_does_not_join() -> None:
    kept, lost = (an_instance(instance_id=name, node="") for name in ("kept", "lost"))
    placed = an_instance(instance_id="placed", node="one")
    store = MemoryStore()
    store.rejoin(kept, who="web")
    known = {one.instance_id: one for one in (kept, lost, placed)}
    assert with_rejoined(store, known, {"placed": None, "other": None}) == {
        "placed": None, "other": None,
    }  # fmt: skip
    with_rejoined(store, known, {"lost": None})
    assert [one.instance_id for one in store.waiting(9)] == ["kept", "lost"]
