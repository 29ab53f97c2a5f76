"""Two web processes as one: /metrics adds up, and a request has one id everywhere."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.demo.waiting import until
from tests.integration.harness import LocalFleet, local_fleet

_NEW_ID = re.compile(r"[0-9a-f]{32}")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """Run one node and two web processes."""
    folder = tmp_path_factory.mktemp("observed")
    with local_fleet(folder) as fleet:
        fleet.start_worker("one")
        fleet.start_web(WEB_PROCESSES="2", RUN_DIR=str(folder / "web-run"))
        assert until(lambda: shown(fleet)["fleet_web_processes"] == {(): 2}, 20)
        yield fleet


@pytest.fixture
def path(fleet: LocalFleet) -> Iterator[str]:
    """Return the proxy's path of an instance of the test's own, with counts of its own."""
    instance_id = fleet.create()["instance_id"]
    yield f"/proxy/{instance_id}"
    fleet.delete(instance_id)


def shown(fleet: LocalFleet) -> dict[str, dict[tuple[str, ...], float]]:
    """Return sample name → label values → value, as any one web process says."""
    answer = requests.get(f"{fleet.base}/metrics", timeout=20)
    assert answer.status_code == 200
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            values = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[values] = sample.value
    return found


def answered(fleet: LocalFleet, path: str, status: int = 200) -> float:
    """Return how many answers with `status` the instance's requests had."""
    requests_total = shown(fleet).get("fleet_requests_total", {})
    instance_id = path.rsplit("/", 1)[1]
    return sum(requests_total.get((str(status), instance_id, way), 0) for way in ("relay", "view"))


def web_processes(fleet: LocalFleet) -> list[int]:
    """Return the pids of the web processes."""
    master = fleet.processes[1].popen.pid
    children = Path(f"/proc/{master}/task/{master}/children").read_text()
    return [int(pid) for pid in children.split()]


def counts(fleet: LocalFleet) -> list[list[object]]:
    """Return what each web process has counted."""
    files = (fleet.folder / "web-run/web/metrics").glob("*/*-*.json")
    return [json.loads(file.read_bytes())["rows"] for file in files]


def ask(fleet: LocalFleet, path: str, times: int) -> None:
    """Send requests, many at once, over connections of their own: both processes get some."""

    def one(_: int) -> int:
        return requests.get(f"{fleet.base}{path}/v1/models", timeout=60).status_code

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(one, range(times))) == {200}


def test_what_both_processes_answered_is_shown_as_one(fleet: LocalFleet, path: str) -> None:
    asked = 0
    while asked < 1000 and not all(counts(fleet)):  # the kernel chooses who gets a connection
        ask(fleet, path, 100)
        asked += 100
        until(lambda: False, 1.5)  # each writes once a second
    assert until(lambda: answered(fleet, path) == asked, 5)
    assert [bool(rows) for rows in counts(fleet)] == [True, True]
    found = shown(fleet)
    assert found["fleet_web_processes"] == {(): 2}
    assert found["fleet_store_up"] == {(): 1}
    assert found["fleet_routing_table_instances"] == {(): 1}
    assert 0 <= found["fleet_routing_age_seconds"][()] < 10
    instance = (path.rsplit("/", 1)[1],)
    assert found["fleet_request_seconds_count"][instance] == answered(fleet, path)


def test_streams_under_way_are_shown_and_then_not(fleet: LocalFleet, path: str) -> None:
    instance = (path.rsplit("/", 1)[1],)

    def under_way() -> float:
        return shown(fleet)["fleet_requests_in_flight"].get(instance, 0)

    streams = [
        requests.get(f"{fleet.base}{path}/sse?count=1000&gap=0.1", stream=True, timeout=60)
        for _ in range(8)
    ]
    assert until(lambda: under_way() == 8, 5)
    for stream in streams:
        stream.close()
    assert until(lambda: under_way() == 0, 5)


def test_a_refusal_is_counted_and_a_made_up_instance_makes_no_series(fleet: LocalFleet) -> None:
    for n in range(20):
        assert fleet.call("GET", f"/proxy/made-up-{n}/v1/models").status_code == 404
    unknown = ("404", "unknown", "view")
    assert until(lambda: shown(fleet).get("fleet_requests_total", {}).get(unknown) == 20, 20)
    assert not any("made-up" in "".join(k) for k in shown(fleet)["fleet_requests_total"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_web_process_that_ends_takes_no_count_with_it(
    fleet: LocalFleet, path: str, number: int
) -> None:
    ask(fleet, path, 50)
    if number == signal.SIGKILL:  # it writes once a second; told to end, it writes once more
        until(lambda: False, 1.5)
    gone = web_processes(fleet)[0]
    os.kill(gone, number)
    assert until(lambda: gone not in web_processes(fleet) and len(web_processes(fleet)) == 2, 20)
    assert until(lambda: shown(fleet)["fleet_web_processes"] == {(): 2}, 20)
    assert answered(fleet, path) == 50


def test_new_web_processes_go_on_counting(fleet: LocalFleet, path: str) -> None:
    ask(fleet, path, 50)
    old = set(web_processes(fleet))
    fleet.processes[1].popen.send_signal(signal.SIGHUP)
    assert until(lambda: not old & set(web_processes(fleet)), 30)
    assert until(lambda: shown(fleet)["fleet_web_processes"] == {(): 2}, 20)
    ask(fleet, path, 50)
    assert until(lambda: answered(fleet, path) == 100, 20)


def test_a_request_has_one_id_for_caller_and_engine(fleet: LocalFleet, path: str) -> None:
    for sent, kept in (("mine-1", True), ("not fit", False), (None, False)):
        headers = {} if sent is None else {"X-Request-Id": sent}
        answer = fleet.call("GET", f"{path}/echo", headers=headers)
        arrived: Any = [v for k, v in answer.json()["headers"] if k.lower() == "x-request-id"]
        assert arrived == [answer.headers["X-Request-Id"]]
        assert (arrived == [sent]) is kept
        assert kept or _NEW_ID.fullmatch(arrived[0])


@pytest.mark.parametrize("path", ["/healthz", "/instances", "/nowhere", "/proxy/nobody-x/v1"])
def test_every_answer_has_an_id(fleet: LocalFleet, path: str) -> None:
    assert _NEW_ID.fullmatch(fleet.call("GET", path).headers["X-Request-Id"])


def test_a_web_tier_that_is_stopped_leaves_no_counts_behind(own_fleet: LocalFleet) -> None:
    web = own_fleet.start_web(RUN_DIR=str(own_fleet.folder / "web-run"))
    folder = own_fleet.folder / "web-run/web/metrics" / str(web.popen.pid)
    assert until(lambda: list(folder.glob("*.json")), 20), web.log.read_text()
    web.end()
    assert not folder.exists()
