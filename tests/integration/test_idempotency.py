"""`Idempotency-Key`: however often a creation is asked for, there is one instance."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
import redis
import requests

from tests.integration.harness import LocalFleet

BODY = {"model_name": "org/tiny", "params": {"max_model_len": 64}, "timeout": 600}


def ask(
    fleet: LocalFleet, key: str, body: Any = None, *, wait: str = "", **headers: str
) -> requests.Response:
    """Ask for an instance."""
    return requests.post(
        f"{fleet.base}/instances",
        json=BODY if body is None else body,
        params={"wait": wait} if wait else {},
        headers={"Idempotency-Key": key, **headers},
        timeout=60,
    )


def test_the_same_again_is_answered_with_the_same_instance(fleet: LocalFleet) -> None:
    key = str(uuid4())
    first = ask(fleet, key)
    again = ask(fleet, key, wait="30")
    other = ask(fleet, str(uuid4()))
    assert (first.status_code, again.status_code, other.status_code) == (202, 200, 202)
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert again.json()["status"] == "running"
    assert other.json()["instance_id"] != first.json()["instance_id"]


def test_how_a_body_is_written_makes_no_difference(fleet: LocalFleet) -> None:
    key = str(uuid4())
    first = ask(fleet, key)
    again = requests.post(
        f"{fleet.base}/instances",
        data='{"timeout":600, "params": {"max-model-len": 64}, "model_name": "org/tiny"}',
        headers={"Idempotency-Key": key},
        timeout=60,
    )
    assert again.json()["instance_id"] == first.json()["instance_id"]


def test_another_body_is_422_and_says_which_instance_has_the_key(fleet: LocalFleet) -> None:
    key = str(uuid4())
    first = ask(fleet, key).json()["instance_id"]
    answer = ask(fleet, key, {**BODY, "timeout": 601})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, "Idempotency-Key")
    assert (error["code"], first in error["message"]) == ("key_reused", True)
    assert list(fleet.call("GET", "/instances").json()) == [first]


def test_of_fifty_at_once_with_one_key_one_makes_an_instance(fleet: LocalFleet) -> None:
    key = str(uuid4())
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: ask(fleet, key), range(50)))
    assert {answer.status_code for answer in answers} <= {200, 202}
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    assert len(fleet.call("GET", "/instances").json()) == 1


def test_of_fifty_at_once_with_mixed_bodies_one_makes_an_instance(fleet: LocalFleet) -> None:
    key = str(uuid4())
    bodies = [{**BODY, "timeout": 600 + number % 2} for number in range(50)]
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda body: ask(fleet, key, body), bodies))
    counts = [sum(a.status_code == 422 for a in answers), len(answers)]
    assert counts == [25, 50], [a.status_code for a in answers]
    assert len(fleet.call("GET", "/instances").json()) == 1


def test_the_last_place_is_enough_for_all_who_ask_with_one_key(fleet: LocalFleet) -> None:
    places = sum(node["max_instances"] for node in nodes(fleet))
    for _ in range(places - 1):
        ask(fleet, str(uuid4()))
    key = str(uuid4())
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: ask(fleet, key), range(20)))
    assert {answer.status_code for answer in answers} <= {200, 202}
    assert ask(fleet, str(uuid4())).status_code == 503
    assert ask(fleet, key).headers["Idempotency-Replayed"] == "true"


def test_a_refused_request_uses_no_key_up(fleet: LocalFleet) -> None:
    key = str(uuid4())
    assert ask(fleet, key, {**BODY, "timeout": -1}).status_code == 400
    assert ask(fleet, key).status_code == 202


def test_the_key_of_an_instance_that_has_ended_still_names_it(fleet: LocalFleet) -> None:
    key = str(uuid4())
    name = ask(fleet, key, wait="30").json()["instance_id"]
    fleet.delete(name)
    again = ask(fleet, key)
    assert (again.status_code, again.json()["status"]) == (200, "stopped")
    assert again.json()["instance_id"] == name


def test_a_key_is_kept_for_a_day(fleet: LocalFleet) -> None:
    ask(fleet, str(uuid4()))
    with redis.Redis.from_url(fleet.redis_url) as client:
        lives = [client.ttl(key) for key in client.scan_iter("fleet:once:*")]
    assert lives
    assert all(0 < seconds <= 86_400 for seconds in lives)


@pytest.mark.parametrize("key", ["", "k" * 256, "k\u00e9y", "a\tb"])
def test_a_key_that_cannot_be_used_is_refused(fleet: LocalFleet, key: str) -> None:
    answer = ask(fleet, key.encode("latin-1"))  # type: ignore[arg-type]
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "Idempotency-Key")
    assert fleet.call("GET", "/instances").json() == {}


def nodes(fleet: LocalFleet) -> list[dict[str, int]]:
    """Return what nodes of the fleet take."""
    with redis.Redis.from_url(fleet.redis_url, decode_responses=True) as client:
        names = client.smembers("fleet:nodes")
        return [
            {"max_instances": int(client.hget(f"fleet:node:{n}", "max_instances"))} for n in names
        ]
