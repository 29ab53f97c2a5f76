"""Every change of an instance is an event: who, why, in order, and to be followed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import pytest
import requests

from tests.demo.waiting import until
from tests.integration.harness import LocalFleet, local_fleet
from tests.integration.sse import Message, messages

SSE = "text/event-stream; charset=utf-8"


@pytest.fixture(scope="module")
def small_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """Give a fleet whose web process takes two followers, with an instance that runs."""
    with local_fleet(tmp_path_factory.mktemp("followed")) as fleet:
        fleet.start_worker("one")
        fleet.start_web(WEB_THREADS="8")
        fleet.create()
        yield fleet


def the_one(fleet: LocalFleet) -> str:
    """Return the id of the only instance."""
    (name,) = fleet.call("GET", "/instances").json()
    return str(name)


def events(fleet: LocalFleet, instance_id: str) -> list[dict[str, Any]]:
    """Return the events of an instance."""
    found: list[dict[str, Any]] = fleet.call("GET", f"/instances/{instance_id}/events").json()[
        "events"
    ]
    return found


def followed(fleet: LocalFleet, instance_id: str, last_id: str = "") -> requests.Response:
    """Follow the events of an instance."""
    return requests.get(
        f"{fleet.base}/instances/{instance_id}/events?follow=1",
        headers={"Last-Event-ID": last_id} if last_id else {},
        stream=True,
        timeout=60,
    )


def test_the_life_of_an_instance_is_told_in_order_with_who_and_why(fleet: LocalFleet) -> None:
    record = fleet.create()
    name, node = record["instance_id"], record["node"]
    fleet.delete(name)
    told = events(fleet, name)
    assert [(event["by"], event["who"], event["status"]) for event in told] == [
        ("user", "local", "pending"),
        ("worker", node, "starting"),
        ("worker", node, "running"),
        ("user", "local", "desired=stopped"),
        ("worker", node, "stopping"),
        ("worker", node, "stopped"),
    ]
    assert told[0]["reason"] == f"created, placed on {node}"
    assert told[3]["reason"] == "deleted by request"
    assert [event["at"] for event in told] == sorted(event["at"] for event in told)


def test_who_follows_is_told_each_change_and_the_end(fleet: LocalFleet) -> None:
    record = fleet.create()
    name = record["instance_id"]
    with followed(fleet, name) as answer, ThreadPoolExecutor() as pool:
        deleting = None
        seen: list[Message] = []
        for message in messages(answer):
            seen.append(message)
            if message.kind == "" and message.content["status"] == "running":
                deleting = pool.submit(fleet.delete, name)
        assert deleting is not None
        assert deleting.result()["status"] == "deleted"
    assert answer.headers["Content-Type"] == SSE
    assert seen[-1].kind == "end"
    told = events(fleet, name)
    assert [message.content for message in seen[:-1]] == told
    assert [message.event_id for message in seen[:-1]] == [event["id"] for event in told]


def test_a_change_reaches_who_follows_at_once(fleet: LocalFleet) -> None:
    name = fleet.create()["instance_id"]
    with followed(fleet, name) as answer:
        coming = messages(answer)
        while next(coming).content["status"] != "running":
            pass
        asked_at = monotonic()
        fleet.call("DELETE", f"/instances/{name}")
        assert next(coming).content["status"] == "desired=stopped"
        assert monotonic() - asked_at < 5  # and not at a look that comes round


def test_who_comes_again_goes_on_behind_the_last_one_seen(fleet: LocalFleet) -> None:
    name = fleet.create()["instance_id"]
    fleet.delete(name)
    told = events(fleet, name)
    with followed(fleet, name, told[2]["id"]) as answer:
        seen = list(messages(answer))
    assert [message.content for message in seen[:-1]] == told[3:]


def test_a_store_that_freezes_under_who_follows_loses_them_nothing(small_fleet: LocalFleet) -> None:
    name = small_fleet.create()["instance_id"]
    redis_pid = small_fleet.redis_pid()
    with followed(small_fleet, name) as answer, ThreadPoolExecutor() as pool:
        coming = messages(answer)
        while next(coming).content["status"] != "running":
            pass
        os.kill(redis_pid, signal.SIGSTOP)
        try:
            following = pool.submit(list, coming)
            until(lambda: False, 5)
            assert not following.done()
        finally:
            os.kill(redis_pid, signal.SIGCONT)
        assert until(lambda: small_fleet.delete(name).get("status") == "deleted", 30)
        rest = following.result()
    assert [m.content["status"] for m in rest[:-1]] == ["desired=stopped", "stopping", "stopped"]


def test_asking_for_the_head_of_an_answer_that_goes_on_holds_nothing(
    small_fleet: LocalFleet,
) -> None:
    name = the_one(small_fleet)
    url = f"/instances/{name}/events?follow=1"
    assert [small_fleet.call("HEAD", url).status_code for _ in range(5)] == [200] * 5


def test_followers_never_hold_all_threads_and_leave_no_trace(small_fleet: LocalFleet) -> None:
    name = the_one(small_fleet)
    following = [followed(small_fleet, name) for _ in range(2)]
    assert [answer.status_code for answer in following] == [200, 200]
    refused = followed(small_fleet, name)
    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "5"
    assert refused.json()["error"]["code"] == "too_many_followers"
    assert small_fleet.call("GET", "/instances").ok
    assert small_fleet.call("GET", f"/instances/{name}/events").ok
    for answer in following:
        answer.close()

    def is_taken() -> bool:
        with followed(small_fleet, name) as answer:
            return answer.ok

    assert until(is_taken, 20)


def test_a_web_process_that_stops_sends_its_followers_away(small_fleet: LocalFleet) -> None:
    web = small_fleet.start_web()
    name = the_one(small_fleet)
    with followed(small_fleet, name) as answer:
        coming = messages(answer)
        next(coming)
        stopped_at = monotonic()
        web.popen.send_signal(signal.SIGTERM)
        last = list(coming)[-1]
    assert (last.kind, "stops" in last.data) == ("end", True)
    assert web.popen.wait(60) == 0
    assert monotonic() - stopped_at < 60  # of 300 that a stream may have


@pytest.mark.parametrize(
    ("path", "status", "field"),
    [
        ("/instances/none/events", 404, None),
        ("/instances/none/events?follow=1", 404, None),
        ("/instances/none/events?follow=maybe", 400, "follow"),
    ],
)
def test_what_cannot_be_followed_is_said(
    fleet: LocalFleet, path: str, status: int, field: str | None
) -> None:
    answer = fleet.call("GET", path)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, field)


def test_a_place_that_never_was_is_refused(fleet: LocalFleet) -> None:
    name = fleet.create()["instance_id"]
    answer = followed(fleet, name, "last week")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Last-Event-ID")
