"""The `Listing` part of the Store contract, kept by the store in memory and by the one on Redis."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from shared.domain.instance import Instance, Status
from shared.errors import InvalidRequest
from shared.store import KEEP_ENDED_S, Query, Store, redis_listing
from shared.store.listing import MOST_CHANGED, SWEPT_AT_ONCE
from shared.store.memory import MemoryStore
from tests.builders import a_node, an_instance
from tests.demo.waiting import until
from tests.integration.test_store import (  # noqa: F401 - fixtures
    PATHS,
    Bench,
    RedisBench,
    bench,
    client,
    redis_bench,
    redis_url,
    store,
)

WAIT_S = 20.0
MANY = 2 * SWEPT_AT_ONCE + 50


def ids(records: Any) -> list[str]:
    """Return the ids of records, as they come."""
    return [record.instance_id for record in records]


# what changed


def test_who_has_no_cursor_gets_everything(bench: Bench) -> None:  # noqa: F811
    bench.created("a")
    bench.moved(bench.created("b"), *PATHS[Status.STOPPED])
    since = bench.store.instances_since("")
    assert (since.whole, since.found) == (True, {"a": bench.got("a")})


def test_with_a_cursor_one_gets_what_has_changed_as_it_is_now(bench: Bench) -> None:  # noqa: F811
    for name in ("a", "b", "c"):
        bench.created(name)
    cursor = bench.store.instances_since("").cursor
    bench.moved("b", Status.STARTING)
    bench.moved("c", *PATHS[Status.STOPPED])
    since = bench.store.instances_since(cursor)
    assert (since.whole, since.found) == (False, {"b": bench.got("b"), "c": bench.got("c")})
    again = bench.store.instances_since(since.cursor)
    assert (again.whole, again.found) == (False, {})


def test_a_store_in_which_nothing_ever_was_says_that_it_is_empty(store: Store) -> None:  # noqa: F811
    assert store.instances_since("").found == {}


def test_a_cursor_of_a_store_that_was_emptied_since_says_nothing(
    redis_bench: RedisBench,  # noqa: F811
) -> None:
    redis_bench.created("a")
    cursor = redis_bench.store.instances_since("").cursor
    redis_bench.client.flushall()
    assert redis_bench.store.instances_since(cursor).whole
    redis_bench.store.announce(a_node(), "worker")
    redis_bench.created("b")
    since = redis_bench.store.instances_since(cursor)
    assert (since.whole, list(since.found)) == (True, ["b"])


def test_a_cursor_that_the_store_has_gone_back_behind_says_nothing(
    redis_bench: RedisBench,  # noqa: F811
) -> None:
    redis_bench.created("a")
    cursor = redis_bench.store.instances_since("").cursor
    redis_bench.client.zadd("fleet:changed:instances", {"a": int(cursor) - 1})
    assert redis_bench.store.instances_since(cursor).whole


def test_a_cursor_from_before_too_many_changes_says_nothing(
    redis_bench: RedisBench,  # noqa: F811
) -> None:
    redis_bench.created("a")
    cursor = redis_bench.store.instances_since("").cursor
    others = {f"x{n}": int(cursor) + 1 + n for n in range(MOST_CHANGED - 1)}
    redis_bench.client.zadd("fleet:changed:instances", others)
    redis_bench.created("b")  # pushes `a` out, and all that is known is still behind the cursor
    assert not redis_bench.store.instances_since(cursor).whole
    redis_bench.created("c")
    assert redis_bench.store.instances_since(cursor).whole
    assert redis_bench.client.zcard("fleet:changed:instances") == MOST_CHANGED


def test_memory_forgets_old_changes_as_redis_does() -> None:
    store = MemoryStore()  # noqa: F811
    store.create(an_instance(instance_id="a"), 9)
    cursor = store.instances_since("").cursor
    for number in range(MOST_CHANGED):
        store._mark("instances", f"x{number}")  # noqa: SLF001 - thousands of records take long
    assert not store.instances_since(cursor).whole
    store._mark("instances", "y")  # noqa: SLF001
    assert store.instances_since(cursor).whole


def test_stamps_go_on_when_the_clock_is_set_back(redis_bench: RedisBench) -> None:  # noqa: F811
    redis_bench.created("a")
    tomorrow = (redis_bench.store.now() + 86_400) * 1e6
    redis_bench.client.zadd("fleet:changed:instances", {"a": int(tomorrow)})
    cursor = redis_bench.store.instances_since("").cursor
    redis_bench.created("b")
    assert list(redis_bench.store.instances_since(cursor).found) == ["b"]


def test_several_are_read_in_one_go(bench: Bench) -> None:  # noqa: F811
    bench.created("a")
    assert bench.store.several(["none", "a"]) == {"none": None, "a": bench.got("a")}
    assert bench.store.several([]) == {}


# pages


def test_pages_follow_each_other_oldest_first(bench: Bench) -> None:  # noqa: F811
    for name in ("e", "d", "c", "b", "a"):
        bench.created(name)
        bench.let(0.01)
    first = bench.store.page(Query(), limit=2)
    second = bench.store.page(Query(), after=first.after, limit=2)
    last = bench.store.page(Query(), after=second.after, limit=2)
    assert [ids(page.records) for page in (first, second, last)] == [["e", "d"], ["c", "b"], ["a"]]
    assert last.after == ""


def test_a_page_that_holds_the_rest_is_the_last(bench: Bench) -> None:  # noqa: F811
    bench.created("a")
    bench.created("b")
    page = bench.store.page(Query(), limit=2)
    assert (len(page.records), page.after) == (2, "")


def test_a_page_begins_behind_an_instance_that_ended_meanwhile(bench: Bench) -> None:  # noqa: F811
    for name in ("a", "b"):
        bench.created(name)
        bench.let(0.01)
    bench.moved("a", *PATHS[Status.STOPPED])
    assert ids(bench.store.page(Query(), after="a").records) == ["b"]


def test_a_page_behind_an_unknown_instance_is_refused(store: Store) -> None:  # noqa: F811
    with pytest.raises(InvalidRequest, match=r"after: there is no instance x \(any more\)"):
        store.page(Query(), after="x")


@pytest.mark.parametrize(
    ("query", "listed"),
    [
        (Query(), ["a", "b", "c"]),
        (Query(with_ended=True), ["a", "b", "c", "d"]),
        (Query(node="one"), ["a", "b"]),
        (Query(node="one", with_ended=True), ["a", "b", "d"]),
        (Query(node="nowhere"), []),
        (Query(model="org/tiny"), ["a", "c"]),
        (Query(model="small"), ["b"]),
        (Query(model="org/b"), ["b"]),
        (Query(status="pending"), ["a"]),
        (Query(status="running"), ["b"]),
        (Query(status="stopping"), ["c"]),
        (Query(status="stopped"), ["d"]),
        (Query(node="one", model="org/tiny"), ["a"]),
        (Query(node="one", model="org/tiny", status="stopped"), ["d"]),
        (Query(node="two", model="small"), []),
    ],
)
def test_lists_are_narrowed_by_node_model_and_status(
    bench: Bench,  # noqa: F811
    query: Query,
    listed: list[str],
) -> None:
    bench.created("a")
    bench.let(0.01)
    bench.running("b", model_name="org/b", catalogue="small")
    bench.let(0.01)
    bench.created("c", node="two")
    bench.store.stop("c", reason="enough", by="user")
    bench.let(0.01)
    bench.moved(bench.created("d"), *PATHS[Status.STOPPED])
    assert ids(bench.store.page(query).records) == listed
    one_by_one, after = [], ""
    for _ in range(9):
        page = bench.store.page(query, after=after, limit=1)
        one_by_one += ids(page.records)
        after = page.after
        if not after:
            break
    assert one_by_one == listed


def test_a_page_of_little_in_much_looks_at_so_many_and_no_more(
    redis_bench: RedisBench,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_listing, "MOST_EXAMINED", 4)
    monkeypatch.setattr(redis_listing, "READ_AT_ONCE", 2)
    for number in range(9):  # both indexes hold nine, and what is in both is the last one
        redis_bench.created(f"a{number}", model_name="org/other")
    redis_bench.running("b", model_name="org/tiny")
    for number in range(9):
        redis_bench.running(f"c{number}", model_name="org/third")
    for number in range(9):
        redis_bench.created(f"d{number}")
    query = Query(model="org/tiny", status="running")
    redis_bench.running("e")
    pages, after = 0, ""
    found: list[str] = []
    while after or not pages:
        page = redis_bench.store.page(query, after=after)
        pages, after = pages + 1, page.after
        found += ids(page.records)
    assert found == ["b", "e"]
    assert pages > 2


def test_what_has_no_record_any_more_is_in_no_page_and_no_index(
    redis_bench: RedisBench,  # noqa: F811
) -> None:
    redis_bench.created("a")
    redis_bench.created("b")
    redis_bench.client.delete("fleet:instance:a")
    assert ids(redis_bench.store.page(Query()).records) == ["b"]
    assert "a" not in listed_anywhere(redis_bench)


# the indexes


def listed_anywhere(bench: RedisBench) -> dict[str, set[str]]:  # noqa: F811
    """Return id → the indexes that it is in."""
    found: dict[str, set[str]] = {}
    for pattern in ("instances*", "ended*", "serving"):
        for key in bench.client.keys(f"fleet:{pattern}"):
            for name in bench.client.zrange(key, 0, -1):
                found.setdefault(name, set()).add(key.removeprefix("fleet:"))
    return found


def as_it_should_be(record: Instance) -> set[str]:
    """Return the indexes that a record has to be in."""
    listed = "ended" if record.ended else "instances"
    models = {record.model_name, record.catalogue} - {""}
    return {
        listed,
        f"{listed}:status:{record.shown_status}",
        f"{listed}:node:{record.node}",
        *(f"{listed}:model:{name}" for name in models),
        *(["serving"] if record.serving else []),
    }


STEPS = ("create", "move", "stop", "touch", "idle", "restore", "lose")


def walked(bench: RedisBench, seed: int) -> Iterator[str]:  # noqa: F811
    """Do things to a few instances, by chance; yield what was done."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    for number in range(60):
        step = chance.choice(STEPS) if number else "create"
        known = sorted(bench.client.hkeys("fleet:listed"))
        name = chance.choice(known or ["none"])
        record = bench.store.get(name)
        if step == "create":
            changes = {"catalogue": chance.choice(["", "small"]), "timeout": chance.choice([0, 5])}
            bench.created(f"i{number}", **changes)
        elif record is None:
            continue
        elif step == "move":
            status = chance.choice(list(Status))
            bench.store.apply(bench.a_change(name, status=status))
        elif step == "stop":
            bench.store.stop(name, reason="enough", by=chance.choice(["user", "idle"]))
        elif step == "touch":
            bench.store.touch([name])
        elif step == "idle":
            bench.client.zadd("fleet:expiry", {name: 1.0}, xx=True)
            bench.store.stop_idle(hold_s=chance.choice([0.0, 60.0]))
        elif step == "restore":
            bench.store.restore(record, epoch=bench.epoch, over=record.revision, reason="lost")
        elif step == "lose":
            bench.client.delete(f"fleet:instance:{name}")
            bench.store.restore(record, epoch=bench.epoch, over=None, reason="lost")
        yield f"{step} {name}"


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_each_record_is_in_its_indexes_and_no_others(
    redis_bench: RedisBench,  # noqa: F811
    seed: int,
) -> None:
    done = []
    for step in walked(redis_bench, seed):
        done.append(step)
        records = redis_bench.store.several(redis_bench.client.hkeys("fleet:listed"))
        wanted = {name: as_it_should_be(record) for name, record in records.items() if record}
        assert listed_anywhere(redis_bench) == wanted, done
        listed = redis_bench.client.hgetall("fleet:listed")
        assert {name: set(json.loads(text)) for name, text in listed.items()} == wanted


def test_what_ended_a_day_ago_leaves_all_indexes_at_the_next_change(
    redis_bench: RedisBench,  # noqa: F811
) -> None:
    redis_bench.moved(redis_bench.created("a"), *PATHS[Status.STOPPED])
    redis_bench.moved(redis_bench.created("b"), Status.FAILED)
    times = redis_bench.client.zrange("fleet:unlist", 0, -1, withscores=True)
    now = redis_bench.store.now()
    assert [name for name, _ in times] == ["a", "b"]
    assert all(now < at < now + KEEP_ENDED_S + 2 for _, at in times)
    cursor = redis_bench.store.instances_since("").cursor
    for name in ("a", "b"):  # as their expiry does
        redis_bench.client.delete(f"fleet:instance:{name}")
        redis_bench.client.zadd("fleet:unlist", {name: now - 1})
    redis_bench.created("c")
    assert listed_anywhere(redis_bench).keys() == {"c"}
    found = redis_bench.store.instances_since(cursor).found
    assert (found["a"], found["b"]) == (None, None)
    assert redis_bench.client.zcard("fleet:unlist") == 0


def test_records_of_a_version_without_these_indexes_are_listed_when_their_node_comes_back(
    redis_bench: RedisBench,  # noqa: F811
) -> None:
    redis_bench.running("a")
    for key in redis_bench.client.keys("fleet:instances:*"):
        redis_bench.client.delete(key)
    redis_bench.client.delete("fleet:listed", "fleet:serving")
    redis_bench.store.announce(a_node(), "worker")
    assert listed_anywhere(redis_bench)["a"] == as_it_should_be(redis_bench.got("a"))


# idle ones, many


def many_idle(bench: Bench) -> None:  # noqa: F811
    """Have many run that nobody uses."""
    for number in range(MANY):
        idle = an_instance(instance_id=f"i{number}", timeout=5)
        assert bench.store.create(idle, MANY)
        bench.moved(idle.instance_id, *PATHS[Status.RUNNING])
    for number in range(MANY):
        bench.age(f"i{number}", 6.0)


def test_however_many_are_idle_each_is_stopped_once(bench: Bench) -> None:  # noqa: F811
    many_idle(bench)
    assert len(bench.store.stop_idle()) == MANY
    assert {len(bench.store.events(f"i{n}")) for n in range(MANY)} == {4}
    assert bench.store.stop_idle() == []


def test_however_many_are_held_back_each_is_told_so_once(bench: Bench) -> None:  # noqa: F811
    many_idle(bench)
    assert bench.store.stop_idle(hold_s=60.0) == []
    assert bench.store.stop_idle(hold_s=60.0) == []
    events = [bench.store.events(f"i{number}")[3:] for number in range(MANY)]
    assert {len(some) for some in events} == {1}
    assert f"{MANY} of {MANY} running instances" in events[-1][0].reason


def test_a_node_holds_back_and_stops_only_its_own(bench: Bench) -> None:  # noqa: F811
    epoch = bench.store.announce(a_node(name="two"), "worker")
    for name, node in (("a", "one"), ("b", "two"), ("c", "two")):
        bench.created(name, timeout=5, node=node)
        changed = {"node": node, "epoch": epoch if node == "two" else bench.epoch}
        for status in PATHS[Status.RUNNING]:
            assert bench.store.apply(bench.a_change(name, status=status, **changed))
    for name in ("a", "b", "c"):
        bench.age(name, 6.0)
    bench.store.stop_idle(node="two", hold_s=60.0)
    told = {name: len(bench.store.events(name)) - 3 for name in ("a", "b", "c")}
    assert told == {"a": 0, "b": 1, "c": 1}
    assert sorted(ids(bench.store.stop_idle(node="two"))) == ["b", "c"]


# leases


def test_a_lease_is_one_holders_at_a_time(store: Store) -> None:  # noqa: F811
    assert store.lease("scaling", "a", 60.0)
    assert not store.lease("scaling", "b", 60.0)
    assert store.lease("scaling", "a", 60.0)
    assert store.lease("other", "b", 60.0)


def test_a_lease_ends_by_itself(bench: Bench) -> None:  # noqa: F811
    assert bench.store.lease("scaling", "a", 0.2)
    bench.let(1.0)
    assert until(lambda: bench.store.lease("scaling", "b", 60.0), WAIT_S)
    assert not bench.store.lease("scaling", "a", 60.0)


def test_a_lease_that_is_given_up_is_free_at_once(store: Store) -> None:  # noqa: F811
    assert store.lease("scaling", "a", 60.0)
    store.end_lease("scaling", "b")
    assert not store.lease("scaling", "b", 60.0)
    store.end_lease("scaling", "a")
    assert store.lease("scaling", "b", 60.0)
