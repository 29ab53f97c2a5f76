"""Engines that crash, hang or will not end, and what the fleet makes of them."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.demo.waiting import until
from tests.integration.harness import LocalFleet, local_fleet, processes_of
from tests.integration.test_supervision import engine_folder

WAITING_S = 30.0
HASTE = {
    "RESTART_BACKOFF": "0.2",
    "RESTART_BACKOFF_MAX": "6",
    "HANG_GRACE": "2",
    "STOP_TIMEOUT": "1",
}
"""Waits of a fiftieth of those that the settings come with."""


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """Give a fleet of one node that waits for nothing long."""
    with local_fleet(tmp_path_factory.mktemp("hasty")) as fleet:
        fleet.start_worker("one", VLLM_MAX_INSTANCES="8", **HASTE)
        fleet.start_web()
        yield fleet


def running_again(fleet: LocalFleet, before: Any) -> Any:
    """Return the record once the next run of the engine is ready."""
    name = before["instance_id"]

    def is_again() -> bool:
        record = fleet.record(name)
        return bool(record["status"] == "running" and record["run"] > before["run"])

    assert until(is_again, WAITING_S), fleet.record(name)
    return fleet.record(name)


def core_of(fleet: LocalFleet, record: Any) -> int:
    """Return the pid of an instance's EngineCore."""
    return next(
        pid
        for pid in processes_of(engine_folder(fleet, record))
        if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def ask(fleet: LocalFleet, record: Any, **body: object) -> int:
    """Return the status of a short completion by the engine."""
    url = f"/proxy/{record['instance_id']}/v1/completions"
    wanted = {"model": "org/tiny", "prompt": "x", "max_tokens": 2, **body}
    return fleet.call("POST", url, json=wanted).status_code


def test_a_crashed_engine_runs_again_as_the_same_instance(hasty: LocalFleet) -> None:
    before = hasty.create()
    os.kill(before["pid"], signal.SIGKILL)
    after = running_again(hasty, before)
    assert (after["run"], after["restarts"]) == (2, 1)
    assert after["pid"] != before["pid"]
    assert (after["cause"], after["exit"]) == ("killed", "ended by signal 9")
    assert ask(hasty, after) == 200
    assert hasty.delete(before["instance_id"])["status"] == "deleted"
    assert processes_of(engine_folder(hasty, before)) == []


def test_waits_double_and_the_fifth_failed_start_is_the_last(hasty: LocalFleet) -> None:
    failed = hasty.create(crash_while_loading=True)
    assert (failed["status"], failed["run"], failed["failed_starts"]) == ("failed", 5, 5)
    assert "given up after 5 starts in a row that were never ready" in failed["reason"]
    crashes = failed["crashes"]
    waits = [after - before for before, after in itertools.pairwise(crashes)]
    for wait, wanted in zip(waits, (0.2, 0.4, 0.8, 1.6), strict=True):
        assert wanted * 0.9 <= wait, waits
    assert failed["retry_at"] is None
    assert processes_of(engine_folder(hasty, failed)) == []


def test_a_flag_that_no_engine_knows_is_not_tried_twice(own_fleet: LocalFleet) -> None:
    config = own_fleet.folder / "config.json"
    config.write_text('{"no_such_flag": true}')
    own_fleet.start_worker("one", VLLM_CONFIG=str(config), **HASTE)
    own_fleet.start_web(VLLM_CONFIG=str(config))
    failed = own_fleet.create()
    assert (failed["status"], failed["cause"], failed["restarts"]) == ("failed", "bad_flag", 0)
    assert failed["exit"] == "exited with status 2"


def test_one_that_is_given_up_takes_no_requests_while_the_rest_is_cleared_up(
    own_fleet: LocalFleet,
) -> None:
    own_fleet.start_worker("one", RESTART_MAX_PER_HOUR="1")
    own_fleet.start_web()
    record = own_fleet.create(setsid_child=True)  # its shim waits a second for that to leave
    os.kill(record["pid"], signal.SIGKILL)
    failed = own_fleet.becomes(record["instance_id"], "failed")
    url = f"/instances/{record['instance_id']}/events"
    events = own_fleet.call("GET", url).json()["events"]
    told = [event for event in events if event["status"] in ("unhealthy", "failed")]
    assert [event["status"] for event in told] == ["unhealthy", "failed"]
    assert told[0]["reason"] == told[1]["reason"] == failed["reason"]
    assert told[1]["at"] - told[0]["at"] > 0.5
    assert processes_of(engine_folder(own_fleet, record)) == []


def test_the_first_cause_of_a_loop_is_not_forgotten(hasty: LocalFleet) -> None:
    before = hasty.create()
    os.kill(before["pid"], signal.SIGTERM)  # by somebody else than its worker
    again = running_again(hasty, before)
    first = again["first_reason"]
    os.kill(again["pid"], signal.SIGKILL)
    after = running_again(hasty, again)
    assert (after["cause"], after["first_reason"]) == ("killed", first)
    assert "signal 9" not in first


def test_a_delete_while_it_waits_for_the_next_start_ends_it(fleet: LocalFleet) -> None:
    record = fleet.create()
    os.kill(record["pid"], signal.SIGKILL)
    fleet.becomes(record["instance_id"], "backoff")
    assert fleet.delete(record["instance_id"])["status"] == "deleted"
    assert fleet.record(record["instance_id"])["status"] == "stopped"


def test_a_worker_killed_while_an_engine_waits_starts_it_when_it_is_back(
    own_fleet: LocalFleet,
) -> None:
    worker = own_fleet.start_worker("one", **HASTE | {"RESTART_BACKOFF": "3"})
    own_fleet.start_web()
    before = own_fleet.create()
    os.kill(before["pid"], signal.SIGKILL)
    own_fleet.becomes(before["instance_id"], "backoff")
    worker.end(signal.SIGKILL)
    own_fleet.start_worker("one", **HASTE)
    assert running_again(own_fleet, before)["run"] == 2


def test_a_hung_engine_is_unhealthy_then_started_again(hasty: LocalFleet) -> None:
    before = hasty.create(hang=True)
    statuses: set[str] = set()
    asking = threading.Thread(target=ask, args=(hasty, before), daemon=True)
    asking.start()

    def is_again() -> bool:
        record = hasty.record(before["instance_id"])
        statuses.add(record["status"])
        return bool(record["run"] == 2 and record["status"] == "running")

    assert until(is_again, WAITING_S), hasty.record(before["instance_id"])
    after = hasty.record(before["instance_id"])
    assert after["cause"] == "engine_hung"
    assert "no step for" in after["first_reason"]
    events = hasty.call("GET", f"/instances/{before['instance_id']}/events")
    if events.ok:
        assert "unhealthy" in events.text
    asking.join(WAITING_S)
    hasty.delete(before["instance_id"])


def test_a_frozen_engine_is_a_hung_one(hasty: LocalFleet) -> None:
    before = hasty.create()
    ask(hasty, before)
    os.kill(before["pid"], signal.SIGSTOP)
    after = running_again(hasty, before)
    assert (after["cause"], processes_of(engine_folder(hasty, before)) != []) == (
        "engine_hung",
        True,
    )
    hasty.delete(before["instance_id"])


def test_a_core_frozen_while_idle_is_found_by_the_first_request(hasty: LocalFleet) -> None:
    before = hasty.create()
    os.kill(core_of(hasty, before), signal.SIGSTOP)  # its metrics go on to say that nothing runs
    asking = threading.Thread(target=ask, args=(hasty, before), daemon=True)
    asking.start()
    after = running_again(hasty, before)
    assert after["cause"] == "engine_hung"
    assert "one token" in after["first_reason"]
    url = f"/instances/{before['instance_id']}/events"
    assert "unhealthy" in hasty.call("GET", url).text
    asking.join(WAITING_S)
    hasty.delete(before["instance_id"])


def test_a_quiet_session_makes_an_engine_suspect_and_one_token_clears_it(
    hasty: LocalFleet,
) -> None:
    before = hasty.create()
    proxy = f"{hasty.base}/proxy/{before['instance_id']}"

    def asked() -> list[str]:
        return [seen["target"] for seen in hasty.http.get(f"{proxy}/seen", timeout=20).json()]

    with socket.create_connection(("localhost", int(hasty.base.rpartition(":")[2]))) as session:
        path = f"/proxy/{before['instance_id']}/silent"
        session.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert until(lambda: asked().count("/v1/completions") > 1, WAITING_S), asked()
    after = hasty.record(before["instance_id"])
    assert (after["status"], after["run"]) == ("running", 1)
    hasty.delete(before["instance_id"])


def test_an_engine_that_is_slow_but_goes_on_is_left_alone(hasty: LocalFleet) -> None:
    before = hasty.create(token_gap=0.5)
    assert ask(hasty, before, max_tokens=8) == 200  # 4 s, and HANG_GRACE is 2
    after = hasty.record(before["instance_id"])
    assert (after["status"], after["run"]) == ("running", 1)
    hasty.delete(before["instance_id"])
