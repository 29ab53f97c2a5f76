"""What nobody uses is stopped; what is in use never is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import monotonic, time

import pytest
import redis
import requests

from tests.demo.waiting import until
from tests.integration.harness import LocalFleet


def test_an_idle_instance_is_stopped_and_says_so(fleet: LocalFleet) -> None:
    began = monotonic()
    record = fleet.create(timeout=2)
    stopped = fleet.becomes(record["instance_id"], "stopped", 10)
    assert monotonic() - began >= 2
    assert stopped["reason"] == "idle for 2 s, its timeout"


def test_a_stream_longer_than_the_timeout_is_not_cut_and_idle_counts_from_its_end(
    fleet: LocalFleet,
) -> None:
    record = fleet.create(timeout=2)
    url = f"/proxy/{record['instance_id']}/sse?count=12&gap=0.5"  # six seconds
    with fleet.call("GET", url, stream=True) as answer:
        events = [line for line in answer.iter_lines(chunk_size=1) if line]
    ended = monotonic()
    assert len(events) >= 12
    assert fleet.record(record["instance_id"])["status"] == "running"
    fleet.becomes(record["instance_id"], "stopped", 10)
    assert monotonic() - ended >= 1.9


def test_a_silent_request_counts_as_use(fleet: LocalFleet) -> None:
    record = fleet.create(timeout=2)
    answer = fleet.call("GET", f"/proxy/{record['instance_id']}/silent?seconds=4")
    assert answer.status_code == 200
    assert fleet.record(record["instance_id"])["status"] == "running"


def test_a_request_that_begins_at_the_last_moment_is_not_cut(own_fleet: LocalFleet) -> None:
    own_fleet.start_worker("one", DRAIN_TIMEOUT="1")
    own_fleet.start_web()
    own_fleet.env["IDLE_SWEEP_INTERVAL"] = "0.1"
    own_fleet.start_beat()
    record = own_fleet.create(timeout=2)
    assert until(lambda: own_fleet.record(record["instance_id"])["status"] == "running", 5)
    now = time() - record["ready_at"]
    until(lambda: False, max(0.0, 1.85 - now))
    url = f"/proxy/{record['instance_id']}/v1/completions"
    body = {"model": "org/tiny", "prompt": "x", "max_tokens": 500, "stream": True}
    answer = own_fleet.call("POST", url, json=body)  # five seconds
    assert answer.text.rstrip().endswith("data: [DONE]")
    assert own_fleet.record(record["instance_id"])["status"] == "running"


def test_a_request_that_no_metric_counts_is_not_cut_either(own_fleet: LocalFleet) -> None:
    own_fleet.start_worker("one", DRAIN_TIMEOUT="1")
    own_fleet.start_web()
    own_fleet.env["IDLE_SWEEP_INTERVAL"] = "0.1"
    own_fleet.start_beat()
    record = own_fleet.create(timeout=2)
    until(lambda: False, max(0.0, 1.85 - (time() - record["ready_at"])))
    answer = own_fleet.call("GET", f"/proxy/{record['instance_id']}/silent?seconds=6")
    assert answer.status_code == 200


def test_a_hung_engine_that_nobody_uses_expires(own_fleet: LocalFleet) -> None:
    own_fleet.start_worker("one", DRAIN_TIMEOUT="1")
    own_fleet.start_web()
    record = own_fleet.create(timeout=2, hang=True)
    url = f"{own_fleet.base}/proxy/{record['instance_id']}/v1/completions"
    with pytest.raises(requests.ReadTimeout):
        requests.post(url, json={"model": "org/tiny", "prompt": "x"}, timeout=1)
    assert own_fleet.becomes(record["instance_id"], "stopped", 25)


def test_a_request_whose_use_was_never_reported_is_not_cut(own_fleet: LocalFleet) -> None:
    own_fleet.start_worker("one", DRAIN_TIMEOUT="1")
    own_fleet.start_web()
    own_fleet.env["IDLE_SWEEP_INTERVAL"] = "0.1"
    own_fleet.start_beat()
    record = own_fleet.create()
    url = f"{own_fleet.base}/proxy/{record['instance_id']}/v1/completions"
    body = {"model": "org/tiny", "prompt": "x", "max_tokens": 500, "stream": True}
    with ThreadPoolExecutor() as pool, redis.Redis.from_url(own_fleet.redis_url) as client:
        streaming = pool.submit(requests.post, url, json=body, timeout=60)  # five seconds
        for _ in range(3):  # as after an outage: due long ago, and in use
            until(lambda: False, 0.7)
            client.zadd("fleet:expiry", {record["instance_id"]: 1.0})
        assert streaming.result().text.rstrip().endswith("data: [DONE]")
    running = own_fleet.record(record["instance_id"])
    assert running["status"] == "running"
    assert running["generation"] > 1  # the sweep asked, and it was withdrawn


def test_timeout_zero_never_expires(fleet: LocalFleet) -> None:
    record = fleet.create(timeout=0)
    other = fleet.create(timeout=1)
    fleet.becomes(other["instance_id"], "stopped", 10)
    assert fleet.record(record["instance_id"])["status"] == "running"


def test_loading_is_not_idling(fleet: LocalFleet) -> None:
    record = fleet.create(timeout=1, start_delay=3)
    assert record["status"] == "running"


def test_without_beat_the_worker_stops_what_is_idle(own_fleet: LocalFleet) -> None:
    own_fleet.start_worker("one")
    own_fleet.start_web()
    record = own_fleet.create(timeout=1)
    assert own_fleet.becomes(record["instance_id"], "stopped", 15)


def test_two_beats_stop_it_once(own_fleet: LocalFleet) -> None:
    own_fleet.start_worker("one")
    own_fleet.start_web()
    own_fleet.start_beat()
    own_fleet.start_beat()
    record = own_fleet.create(timeout=1)
    stopped = own_fleet.becomes(record["instance_id"], "stopped", 15)
    assert stopped["generation"] == 2
    assert until(lambda: own_fleet.call("GET", "/instances").json() == {}, 5)
    with redis.Redis.from_url(own_fleet.redis_url) as client:  # sweeps leave nothing behind
        results = [client.get(key) for key in client.scan_iter("fleet:celery:celery-task-meta-*")]
    assert not [text for text in results if b"expire_idle" in (text or b"")]


def test_when_all_are_idle_at_once_it_is_said_before_any_is_stopped(own_fleet: LocalFleet) -> None:
    own_fleet.start_worker("one", IDLE_HOLD="2")
    own_fleet.start_web()
    instances = [own_fleet.create()["instance_id"] for _ in range(2)]
    with redis.Redis.from_url(own_fleet.redis_url) as client:  # as after its clock was set
        client.zadd("fleet:expiry", dict.fromkeys(instances, 1.0))
    for name in instances:
        own_fleet.becomes(name, "stopped", 25)
        events = own_fleet.call("GET", f"/instances/{name}/events").json()["events"]
        held, asked = [event for event in events if event["by"] == "idle"]
        assert "2 of 2 running instances are due at once" in held["reason"]
        assert (held["status"], asked["status"]) == ("running", "desired=stopped")
        assert asked["at"] - held["at"] >= 2
