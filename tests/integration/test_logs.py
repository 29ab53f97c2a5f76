"""Logs of every run that is kept, from whichever node; a flood of them hinders nobody."""

from __future__ import annotations

import os
import re
import signal
from typing import Any

import redis
import requests

from shared.store.history import LOG_BYTES, LOG_LINES
from tests.demo.waiting import until
from tests.integration.harness import LocalFleet
from tests.integration.sse import messages
from workers.log_file import FILE_BYTES


def log_of(fleet: LocalFleet, instance_id: str, **args: object) -> requests.Response:
    """Return the answer to a question for a log."""
    return requests.get(
        f"{fleet.base}/instances/{instance_id}/logs",
        params={name: str(value) for name, value in args.items()},
        stream=bool(args.get("follow")),
        timeout=60,
    )


def test_who_follows_a_log_is_shown_what_was_and_what_comes(fleet: LocalFleet) -> None:
    name = fleet.create()["instance_id"]
    with log_of(fleet, name, follow=1, tail=1) as answer:
        lines = answer.iter_lines(chunk_size=1, decode_unicode=True)
        first = next(lines)
        fleet.delete(name)
        rest = list(lines)
    whole = log_of(fleet, name, tail=5000).text.splitlines()
    assert first in whole
    assert [first, *rest] == whole[whole.index(first) :]
    assert any("shutdown triggered" in line for line in rest)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_as_events_a_log_can_be_gone_on_with(fleet: LocalFleet) -> None:
    name = fleet.create()["instance_id"]
    fleet.delete(name)
    whole = log_of(fleet, name, tail=5000).text.splitlines()
    url = f"{fleet.base}/instances/{name}/logs?follow=1&tail=5000"
    events = {"Accept": "text/event-stream"}
    with requests.get(url, headers=events, stream=True, timeout=60) as answer:
        seen = list(messages(answer))
    assert [message.data for message in seen[:-1]] == whole
    assert seen[-1].kind == "end"
    again = {**events, "Last-Event-ID": seen[3].event_id}
    with requests.get(url, headers=again, stream=True, timeout=60) as answer:
        assert [message.data for message in messages(answer)][:-1] == whole[4:]


def test_a_flood_slows_nobody_and_is_bounded_on_disk_and_in_redis(fleet: LocalFleet) -> None:
    record = fleet.create(log_flood=200, log_rate=100)
    name = record["instance_id"]

    def last_lines() -> str:
        return log_of(fleet, name, tail=20).text

    assert until(lambda: "flood over" in last_lines(), 30)
    stall = re.search(r"flood over, longest stall ([\d.]+) s", last_lines())
    assert stall is not None
    assert float(stall[1]) < 1.0
    files = (fleet.run_dir(record["node"]) / "engines" / name).glob("run-*.log*")
    assert sum(file.stat().st_size for file in files) <= 2 * FILE_BYTES
    with redis.Redis.from_url(fleet.redis_url) as client:
        kept = [client.memory_usage(key) for key in client.scan_iter(f"fleet:log:{name}:*")]
    assert 0 < sum(kept) < 2 * LOG_BYTES  # Redis needs some bytes for each line, too
    assert len(log_of(fleet, name, tail=5000).content) <= LOG_BYTES + LOG_LINES


def runs_again(fleet: LocalFleet, before: Any) -> Any:
    """Return the record once the engine runs in a later run than it did before."""

    def again() -> Any:
        return fleet.record(before["instance_id"])

    assert until(lambda: again()["run"] > before["run"] and again()["status"] == "running", 30)
    return again()


def test_the_log_of_the_run_that_crashed_outlives_it_and_who_follows_sees_the_next(
    own_fleet: LocalFleet,
) -> None:
    own_fleet.start_worker("one", RESTART_BACKOFF="0.2")
    own_fleet.start_web()
    record = own_fleet.create()
    name = record["instance_id"]
    assert record["run"] == 1
    too_early = log_of(own_fleet, name, run="previous")
    assert (too_early.status_code, "previous run" in too_early.text) == (404, True)
    with log_of(own_fleet, name, follow=1) as answer:
        lines = answer.iter_lines(chunk_size=1, decode_unicode=True)
        os.kill(record["pid"], signal.SIGKILL)
        again = runs_again(own_fleet, record)
        assert next(line for line in lines if line == "[run 2]")
        assert f"pid={again['pid']}" in next(lines)
    previous = log_of(own_fleet, name, run="previous", tail=5000).text
    assert log_of(own_fleet, name, run=1, tail=5000).text == previous
    assert f"pid={record['pid']}" in previous
    assert f"pid={again['pid']}" not in previous
    assert f"pid={again['pid']}" in log_of(own_fleet, name).text
    with log_of(own_fleet, name, run="previous", follow=1, tail=5000) as answer:
        assert answer.text == previous  # it ends: nothing more can come
    os.kill(again["pid"], signal.SIGKILL)
    third = runs_again(own_fleet, again)
    assert third["run"] == 3
    forgotten = log_of(own_fleet, name, run=1)
    assert (forgotten.status_code, "run 2 and run 3" in forgotten.text) == (404, True)
    events = own_fleet.call("GET", f"/instances/{name}/events").json()["events"]
    told = [(event["status"], event["run"], event["cause"]) for event in events]
    assert told == [
        ("pending", 0, ""),
        ("starting", 1, ""),
        ("running", 1, ""),
        ("backoff", 1, "killed"),
        ("starting", 2, ""),
        ("running", 2, ""),
        ("backoff", 2, "killed"),
        ("starting", 3, ""),
        ("running", 3, ""),
    ]
    _kept_of_two_runs(own_fleet, name)


def _kept_of_two_runs(fleet: LocalFleet, name: str) -> None:
    files = {path.name for path in (fleet.run_dir("one") / "engines" / name).glob("run-*.log")}
    with redis.Redis.from_url(fleet.redis_url, decode_responses=True) as client:
        keys = {key.rpartition(":")[2] for key in client.scan_iter(f"fleet:log:{name}:*")}
    assert (files - {"run-2.shim.log", "run-3.shim.log"}, keys) == (
        {"run-2.log", "run-3.log"},
        {"2", "3"},
    )
