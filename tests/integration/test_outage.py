"""Redis frozen, busy, flushed or dead: requests to what is known go on; what stopped says so."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import redis
import requests

from tests.demo.waiting import until
from tests.integration.harness import LocalFleet, local_fleet
from tests.redis_server import server_command

_TABLE_NOTICES_S = 9.0  # a refresh every 5 s, a socket timeout of 2
_CALLERS = 4


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[LocalFleet]:
    """Run one node and two web processes."""
    with local_fleet(tmp_path) as fleet:
        fleet.start_worker("one", RESTART_MAX_PER_HOUR="1")  # whose engine dies here has failed
        fleet.start_web(WEB_PROCESSES="2", RUN_DIR=str(tmp_path / "web"))
        yield fleet


def models_of(record: Any) -> str:
    """Return a path that only the engine of this record answers with its name."""
    return f"/proxy/{record['instance_id']}/v1/models"


@contextmanager
def traffic(fleet: LocalFleet, path: str) -> Iterator[Callable[[], int]]:
    """Send requests all the time, each over a new connection, so that all web processes get some.

    Yields what tells how many were answered. At the end every one must have been, with 200 and
    within a second.
    """
    slowest_s, statuses, over = 0.0, list[int](), threading.Event()

    def ask() -> None:
        nonlocal slowest_s
        while not over.wait(0.02):
            began = monotonic()
            with requests.get(f"{fleet.base}{path}", timeout=60) as answer:
                statuses.append(answer.status_code)
            slowest_s = max(slowest_s, monotonic() - began)

    callers = [threading.Thread(target=ask) for _ in range(_CALLERS)]
    for caller in callers:
        caller.start()
    try:
        yield lambda: len(statuses)
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert set(statuses) == {200}
    assert slowest_s < 1


def answer_of_each(fleet: LocalFleet, path: str) -> set[tuple[int, str]]:
    """Return the answers to many requests: all web processes are among those who give them."""
    found = set()
    for _ in range(20):
        answer = requests.get(f"{fleet.base}{path}", timeout=60)
        found.add((answer.status_code, answer.text))
    return found


def waited(seconds: float) -> None:
    """Let time pass, in which the fleet must notice something."""
    threading.Event().wait(seconds)


@contextmanager
def frozen(fleet: LocalFleet) -> Iterator[None]:
    """Have a Redis that takes connections and answers nothing."""
    server = fleet.redis_pid()
    os.kill(server, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server, signal.SIGCONT)


def test_with_redis_frozen_requests_go_on_and_changes_arrive_after_it(fleet: LocalFleet) -> None:
    record, stopped = fleet.create(), fleet.create()
    fleet.delete(stopped["instance_id"])
    with traffic(fleet, models_of(record)) as answered, frozen(fleet):
        waited(_TABLE_NOTICES_S)
        before = answered()
        assert until(lambda: answered() > before + 50, 10)
        [(status, text)] = answer_of_each(fleet, models_of(stopped))
        assert (status, "is stopped: deleted by request" in text) == (503, True)
        began = monotonic()
        [(status, text)] = answer_of_each(fleet, "/proxy/nobody-x/v1/models")
        assert (status, "Redis does not answer" in text) == (503, True)
        assert monotonic() - began < 5  # for all twenty: nobody waits for Redis
    assert fleet.delete(record["instance_id"])["status"] == "deleted"
    assert {status for status, _ in answer_of_each(fleet, models_of(record))} == {503}


def test_with_redis_busy_requests_go_on(fleet: LocalFleet) -> None:
    record = fleet.create()
    client: Any = redis.Redis.from_url(fleet.redis_url)
    with client, traffic(fleet, models_of(record)):
        client.execute_command("DEBUG", "SLEEP", "4")


def test_a_flushed_redis_loses_no_instance_until_its_engine_ends(fleet: LocalFleet) -> None:
    record = fleet.create()
    worker = fleet.processes[0].popen
    worker.send_signal(signal.SIGSTOP)  # else it writes the record back
    try:
        with traffic(fleet, models_of(record)):
            with redis.Redis.from_url(fleet.redis_url) as client:
                client.flushall()
            waited(_TABLE_NOTICES_S)
        log = fleet.processes[1].log
        lost = f"Redis has lost the record of {record['instance_id']}"
        assert log.read_text().count(lost) == 2  # once by each web process
        os.kill(record["pid"], signal.SIGKILL)
        path = models_of(record)
        assert until(lambda: fleet.call("GET", path).status_code == 503, 10)
        [(status, text)] = answer_of_each(fleet, path)
        assert (status, "is stopped: its engine is gone" in text) == (503, True)
    finally:
        worker.send_signal(signal.SIGCONT)


def test_with_redis_dead_requests_go_on_and_an_engine_that_ends_is_503(fleet: LocalFleet) -> None:
    record, ending = fleet.create(), fleet.create()
    path = models_of(ending)
    with ExitStack() as at_the_end, traffic(fleet, models_of(record)):
        os.kill(fleet.redis_pid(), signal.SIGKILL)
        waited(2.0)
        os.kill(ending["pid"], signal.SIGKILL)
        assert until(lambda: {s for s, _ in answer_of_each(fleet, path)} == {503}, 10)
        [(_, text)] = answer_of_each(fleet, path)
        assert "Redis, which could say why, is away" in text
        at_the_end.enter_context(redis_again(fleet))
        at_the_end.callback(fleet.close)  # what stands on it goes before it
        assert until(lambda: fleet.call("GET", "/readyz").ok, 20)
        assert fleet.becomes(ending["instance_id"], "failed")
        assert until(lambda: all("is failed" in t for _, t in answer_of_each(fleet, path)), 10)


@contextmanager
def redis_again(fleet: LocalFleet) -> Iterator[None]:
    """Run a Redis where the killed one was, with its data."""
    command = server_command(fleet.folder / "redis", fleet.redis_url.removeprefix("unix://"))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield
        finally:
            server.kill()


def test_requests_for_unknown_ids_are_no_load_on_redis(fleet: LocalFleet) -> None:
    with redis.Redis.from_url(fleet.redis_url) as client:
        before, began = reads(client), monotonic()
        statuses = {fleet.call("GET", f"/proxy/made-up-{n}/v1").status_code for n in range(1000)}
        took_s = monotonic() - began
        for _ in range(200):
            assert fleet.call("GET", "/proxy/made-up/v1").status_code in (404, 503)
        assert statuses <= {404, 503}
        assert reads(client) - before < 2 * 100 * (took_s + 3) + 100


def reads(client: Any) -> int:
    """Return how many records were read from Redis until now."""
    return int(client.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"])
