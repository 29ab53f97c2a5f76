"""Models on demand where room is short, and where nodes are drained or silent."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo.waiting import until
from tests.integration.harness import local_fleet
from tests.integration.test_on_demand import SOON_S, Models

LOST_S = 40.0  # a node is lost after 15


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Models]:
    with local_fleet(tmp_path, EVICT_AFTER="0") as fleet:
        fleet.start_worker("one", VLLM_MAX_INSTANCES="1")
        fleet.start_beat()
        yield Models(fleet, tmp_path / "models.yaml")


def test_an_idle_model_makes_room_for_one_that_is_asked_for(models: Models) -> None:
    models.write({"name": "first"}, {"name": "second"})
    assert models.ask("first").status_code == 200
    answer = models.ask("second")
    assert answer.status_code == 200, answer.text
    assert not models.instances("first")


def test_a_model_in_use_makes_no_room_and_the_other_waits_in_line(models: Models) -> None:
    models.write({"name": "first", "params": {"token_gap": 0.5}}, {"name": "second"})
    assert models.ask("first").status_code == 200
    busy = models.asked("first", 1, max_tokens=24)
    assert until(busy[0].running, SOON_S)
    answer = models.ask("second")
    assert answer.status_code == 200, answer.text
    assert busy[0].done()
    assert busy[0].result().status_code == 200


def test_a_pinned_model_makes_no_room(models: Models) -> None:
    models.write({"name": "first", "pinned": True}, {"name": "second"})
    assert models.ask("first").status_code == 200
    waiting = models.asked("second", 1, timeout=10)
    assert until(lambda: bool(models.instances("second")), SOON_S)
    record = models.replica("second")
    assert (record["node"], record["status"]) == ("", "pending")
    assert models.replica("first")["status"] == "running"
    with pytest.raises(Exception, match="timed out"):
        waiting[0].result()
    assert until(lambda: not models.instances("second"), 30)  # nobody waits for it any more


def test_a_drained_nodes_replica_goes_once_another_has_come_up(models: Models) -> None:
    models.write({"name": "first"})
    assert models.ask("first").status_code == 200
    old = models.replica("first")["instance_id"]
    models.fleet.start_worker("two", VLLM_MAX_INSTANCES="1")
    models.fleet.call("POST", "/nodes/one/drain")
    models.fleet.becomes(old, "stopped", 60)
    new = models.replica("first")
    assert (new["node"], new["status"]) == ("two", "running")
    assert new["ready_at"] <= models.fleet.record(old)["ended_at"]
    assert models.ask("first").status_code == 200


def test_a_model_whose_only_node_falls_silent_is_started_on_another(models: Models) -> None:
    models.write({"name": "first"})
    assert models.ask("first").status_code == 200
    worker = next(p for p in models.fleet.processes if "one-" in p.log.name)
    models.fleet.start_worker("two", VLLM_MAX_INSTANCES="1")
    worker.popen.send_signal(signal.SIGSTOP)
    try:

        def status() -> str:
            return str(models.fleet.call("GET", "/nodes/one").json()["status"])

        assert until(lambda: status() == "lost", LOST_S), status()

        def fails_over() -> bool:  # each web process sees the loss within a second of the store
            assert models.ask("first").status_code == 200
            return {one["node"] for one in models.instances("first")} == {"one", "two"}

        assert until(fails_over, SOON_S)
    finally:
        worker.popen.send_signal(signal.SIGCONT)
    assert until(lambda: len(models.instances("first")) == 1, 60)  # one is too many
