"""The `History` part of the Store contract, kept by the store in memory and by the one on Redis."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest

from shared.domain.instance import Status
from shared.store import Once, Store
from shared.store.history import EVENT_REASON_BYTES, EVENTS, KEEP_ONCE_S, LOG_BYTES
from tests.builders import an_instance
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


def texts(store: Store, run: int, tail: int = 10_000) -> list[str]:  # noqa: F811
    """Return the kept lines of a run."""
    return [line.text for line in store.log("i1", run, tail)]


# events


def test_events_say_which_run_and_why_it_ended(bench: Bench) -> None:  # noqa: F811
    bench.created()
    bench.moved("i1", Status.STARTING, run=1)
    bench.moved("i1", Status.BACKOFF, cause="killed", reason="ended by signal 9")
    bench.moved("i1", Status.STARTING, run=2)
    told = [(e.status, e.run, e.cause, e.who) for e in bench.store.events("i1")]
    assert told == [
        ("pending", 0, "", ""),
        ("starting", 1, "", "one"),
        ("backoff", 1, "killed", "one"),
        ("starting", 2, "", "one"),
    ]


def test_who_asks_is_said(bench: Bench) -> None:  # noqa: F811
    bench.store.create(an_instance(instance_id="i1"), 9, who="ops (key aaaaaaaa)")
    bench.store.stop("i1", reason="enough", by="user", who="ann (key bbbbbbbb)")
    assert [(e.by, e.who) for e in bench.store.events("i1")] == [
        ("user", "ops (key aaaaaaaa)"),
        ("user", "ann (key bbbbbbbb)"),
    ]


def test_a_note_is_an_event_that_changes_nothing(bench: Bench) -> None:  # noqa: F811
    before = bench.running()
    assert bench.store.note("i1", by="worker", who="one", reason="it was found again")
    last = bench.store.events("i1")[-1]
    assert (last.by, last.who, last.status, last.reason) == (
        "worker",
        "one",
        "running",
        "it was found again",
    )
    assert bench.got("i1") == before


def test_nobody_can_be_noted(store: Store) -> None:  # noqa: F811
    assert not store.note("none", by="worker", who="one", reason="r")
    assert store.events("none") == []


def test_a_reason_is_cut_between_two_characters(bench: Bench) -> None:  # noqa: F811
    bench.created()
    bench.store.note("i1", by="worker", who="one", reason="x" + "千" * 1_000)
    reason = bench.store.events("i1")[-1].reason
    assert reason == "x" + "千" * ((EVENT_REASON_BYTES - 1) // 3)


def test_the_newest_events_are_kept(bench: Bench) -> None:  # noqa: F811
    bench.created()
    for number in range(EVENTS + 200):
        bench.store.note("i1", by="worker", who="one", reason=str(number))
    kept = bench.store.events("i1")
    assert (kept[-1].reason, EVENTS <= len(kept) < EVENTS + 150) == (str(EVENTS + 199), True)


def test_events_behind_a_place_are_those_that_came_later(bench: Bench) -> None:  # noqa: F811
    bench.moved(bench.created(), *PATHS[Status.RUNNING])
    events = bench.store.events("i1")
    behind = [bench.store.events_after("i1", event.id, wait_s=0.0) for event in events]
    assert behind == [events[1:], events[2:], []]
    assert bench.store.events_after("i1", "", wait_s=0.0) == events


def test_who_waits_for_an_event_gets_it_at_once(bench: Bench) -> None:  # noqa: F811
    bench.created()
    (first,) = bench.store.events("i1")
    with ThreadPoolExecutor() as pool:
        begun = monotonic()
        waiting = pool.submit(bench.store.events_after, "i1", first.id, wait_s=1.0)
        until(lambda: False, 0.1)
        bench.store.note("i1", by="worker", who="one", reason="news")
        assert [event.reason for event in waiting.result()] == ["news"]
        assert monotonic() - begun < 0.9


def test_waiting_in_vain_ends_in_time(bench: Bench) -> None:  # noqa: F811
    begun = monotonic()
    found = bench.store.log_after("i1", 1, "", wait_s=3_600.0)
    assert (found, 0.5 < monotonic() - begun < 20) == ([], True)


# logs


def test_each_run_has_its_own_log(bench: Bench) -> None:  # noqa: F811
    bench.created()
    bench.moved("i1", Status.STARTING, run=1)
    bench.store.append_log("i1", 1, ["a"])
    bench.moved("i1", Status.BACKOFF)
    bench.moved("i1", Status.STARTING, run=2)
    bench.store.append_log("i1", 2, ["b"])
    bench.store.append_log("i1", 1, ["late"])
    assert (texts(bench.store, 1), texts(bench.store, 2)) == (["a", "late"], ["b"])


def test_logs_of_the_last_two_runs_are_kept(bench: Bench) -> None:  # noqa: F811
    bench.created()
    for run in (1, 2, 3):
        bench.moved("i1", Status.STARTING, run=run)
        bench.store.append_log("i1", run, [f"run {run}"])
        bench.moved("i1", Status.BACKOFF)
    bench.store.append_log("i1", 1, ["very late"])
    kept = [texts(bench.store, run) for run in (1, 2, 3)]
    assert kept == [[], ["run 2"], ["run 3"]]


@pytest.mark.parametrize("at_once", [1, 7, 400])
def test_a_log_is_bounded_in_bytes(bench: Bench, at_once: int) -> None:  # noqa: F811
    bench.created()
    lines = [f"{number:06d} " + "千" * 1_000 for number in range(400)]  # three thousand bytes each
    for begin in range(0, len(lines), at_once):
        bench.store.append_log("i1", 1, lines[begin : begin + at_once])
    kept = texts(bench.store, 1)
    size = sum(len(line.encode()) for line in kept)
    assert kept == lines[-len(kept) :]
    assert LOG_BYTES - 4_000 < size <= LOG_BYTES


def test_lines_behind_a_place_are_those_that_came_later(bench: Bench) -> None:  # noqa: F811
    bench.created()
    bench.store.append_log("i1", 1, ["a", "b", "c"])
    first, *rest = bench.store.log("i1", 1, 10)
    assert bench.store.log_after("i1", 1, first.id, wait_s=0.0) == rest
    assert bench.store.log_after("i1", 1, rest[-1].id, wait_s=0.0) == []
    assert bench.store.log_after("i1", 2, "", wait_s=0.0) == []


def test_a_line_of_a_record_that_is_lost_is_kept_for_a_while(
    redis_bench: RedisBench,  # noqa: F811
) -> None:
    redis_bench.store.append_log("lost", 1, ["a"])
    assert redis_bench.client.ttl("fleet:log:lost:1") > 0
    redis_bench.created("lost")
    redis_bench.store.append_log("lost", 1, ["b"])
    assert redis_bench.client.ttl("fleet:log:lost:1") == -1


# creations that happen once


ONCE = Once(name="ops k", fingerprint="f")


def test_what_is_created_once_is_known_by_its_key(bench: Bench) -> None:  # noqa: F811
    assert bench.store.created_once(ONCE.name) is None
    assert bench.store.create(an_instance(instance_id="i1"), 9, once=ONCE)
    made = bench.store.created_once(ONCE.name)
    assert made is not None
    assert (made.instance_id, made.fingerprint) == ("i1", "f")
    assert not bench.store.create(an_instance(instance_id="i2"), 9, once=ONCE)
    assert bench.store.get("i2") is None
    assert bench.store.create(an_instance(instance_id="i3"), 9, once=Once(name="k", fingerprint=""))


def test_a_refused_creation_uses_no_key_up(bench: Bench) -> None:  # noqa: F811
    assert not bench.store.create(an_instance(instance_id="i1"), 0, once=ONCE)
    assert bench.store.created_once(ONCE.name) is None
    assert bench.store.create(an_instance(instance_id="i1"), 9, once=ONCE)


def test_of_sixteen_threads_with_one_key_one_creates(bench: Bench) -> None:  # noqa: F811
    barrier = threading.Barrier(16)

    def create(number: int) -> bool:
        barrier.wait()
        return bench.store.create(an_instance(instance_id=f"i{number}"), 99, once=ONCE)

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(create, range(16)))
    assert (sum(won), len(bench.store.instances())) == (1, 1)


def test_a_key_whose_instance_is_lost_is_free_again(redis_bench: RedisBench) -> None:  # noqa: F811
    redis_bench.store.create(an_instance(instance_id="i1"), 9, once=ONCE)
    (key,) = redis_bench.client.keys("fleet:once:*")
    assert 0 < redis_bench.client.ttl(key) <= KEEP_ONCE_S
    redis_bench.client.delete("fleet:instance:i1")
    assert redis_bench.store.created_once(ONCE.name) is None
    assert redis_bench.store.create(an_instance(instance_id="i2"), 9, once=ONCE)
