"""Nodes in service and out of it: simulated GPUs, cordon, drain, lost and back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shared.settings import ROOT
from tests.demo.waiting import until
from tests.integration.harness import LocalFleet

TWO_GPUS = {"NODE_FAKE_GPUS": "2x80GiB", "NODE_LABELS": "zone=a,gpu=h100"}
HALF: dict[str, Any] = {"gpu_memory_utilization": 0.45}
LONG_S = 30.0


def node_of(fleet: LocalFleet, name: str = "one") -> Any:
    """Return a node as callers see it."""
    answer = fleet.call("GET", f"/nodes/{name}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def asked(fleet: LocalFleet, **body: object) -> Any:
    """Return the record of an instance that was just asked for."""
    answer = fleet.call("POST", "/instances", json={"model_name": "org/tiny", **body})
    assert answer.status_code == 202, answer.text
    return answer.json()


def launch_of(fleet: LocalFleet, instance_id: str, node: str = "one") -> Any:
    """Return what an engine was started with."""
    return json.loads((fleet.run_dir(node) / "engines" / instance_id / "launch.json").read_text())


def _is_used(record: Any) -> bool:
    return bool(record["last_active"] > record["ready_at"])


def chat(fleet: LocalFleet, instance_id: str, tokens: int) -> Any:
    """Have an instance say that many tokens; one takes a tenth of a second."""
    body = {"model": "org/tiny", "messages": [], "max_tokens": tokens}
    return fleet.http.post(
        f"{fleet.base}/proxy/{instance_id}/v1/chat/completions", json=body, timeout=60
    )


# what a node tells


def test_a_node_tells_what_it_is_and_what_its_gpus_have(own_fleet: LocalFleet) -> None:
    own_fleet.start_web()
    own_fleet.start_worker("one", **TWO_GPUS, VLLM_MAX_INSTANCES="3")
    assert until(lambda: node_of(own_fleet)["gpus"][0]["free_mib"] is not None, LONG_S)
    node = node_of(own_fleet)
    assert (node["status"], node["simulated"], node["max_instances"]) == ("alive", True, 3)
    assert node["labels"] == {"zone": "a", "gpu": "h100"}
    assert (node["address"], node["cordoned"], node["draining"]) == ("127.0.0.1", False, False)
    assert 0.0 <= node["heartbeat_age_s"] <= 15.0
    assert node["gpus"][0] == {
        "index": 0,
        "uuid": "SIM-one-0",
        "name": "simulated, 80 GiB",
        "simulated": True,
        "total_mib": 81_920,
        "free_mib": 81_920,
        "foreign_mib": 0,
        "claimed": 0.0,
    }
    assert own_fleet.call("GET", "/nodes").json().keys() == {"one"}
    assert own_fleet.call("GET", "/nodes/none").status_code == 404


def test_engines_share_simulated_gpus_and_are_given_none(own_fleet: LocalFleet) -> None:
    own_fleet.start_web()
    own_fleet.start_worker("one", **TWO_GPUS)
    first, second, third = (own_fleet.create(**HALF) for _ in range(3))
    assert first["gpus"] == second["gpus"] != third["gpus"]
    node = node_of(own_fleet)
    assert sorted(gpu["claimed"] for gpu in node["gpus"]) == [0.45, 0.9]
    held = node["instances"][first["instance_id"]]["gpus"]
    assert held == {first["gpus"][0]: 0.45}
    assert "CUDA_VISIBLE_DEVICES" not in launch_of(own_fleet, first["instance_id"])["env"]
    of_both = (81_920 * 900) // 1000
    assert until(
        lambda: min(g["free_mib"] for g in node_of(own_fleet)["gpus"]) <= 81_920 - of_both + 1,
        LONG_S,
    ), node_of(own_fleet)


def test_starts_on_one_gpu_go_one_after_another(own_fleet: LocalFleet) -> None:
    own_fleet.start_web()
    own_fleet.start_worker("one", NODE_FAKE_GPUS="1x80GiB")
    slow = {**HALF, "start_delay": 3}
    first = asked(own_fleet, params=slow)["instance_id"]
    second = asked(own_fleet, params=slow)["instance_id"]
    waits = f"waits for {first}: engines of one GPU start one after another"
    assert until(lambda: own_fleet.record(second)["reason"] == waits, LONG_S)
    assert own_fleet.record(second)["status"] == "pending"
    own_fleet.becomes(first, "running")
    record = own_fleet.becomes(second, "running")
    assert record["reason"] == ""
    assert record["started_at"] >= own_fleet.record(first)["ready_at"]


def test_what_runs_in_engines_is_told(own_fleet: LocalFleet) -> None:
    own_fleet.start_web()
    own_fleet.start_worker("one")
    instance_id = own_fleet.create(token_gap=0.1)["instance_id"]

    def load() -> Any:
        return node_of(own_fleet)["instances"][instance_id]

    assert until(lambda: load() == {"gpus": {}, "running": 0, "waiting": 0}, LONG_S), load()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(chat, own_fleet, instance_id, 200)
        assert until(lambda: load()["running"] == 1, LONG_S), load()
        assert answer.result().status_code == 200
    assert until(lambda: load()["running"] == 0, LONG_S), load()


def test_weights_that_lie_on_a_node_are_told(own_fleet: LocalFleet, tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "mine").mkdir(parents=True)
    (models / "mine" / "model.safetensors").touch()
    (models / "empty").mkdir()
    own_fleet.start_web()
    own_fleet.start_worker("one", MODELS_DIR=str(models), HF_HOME=str(tmp_path))
    assert until(lambda: node_of(own_fleet)["models"] == ["mine"], LONG_S), node_of(own_fleet)


# out of service


def test_a_cordoned_node_takes_nothing_new_until_it_is_uncordoned(own_fleet: LocalFleet) -> None:
    own_fleet.start_web()
    own_fleet.start_worker("one")
    kept = own_fleet.create()["instance_id"]
    assert own_fleet.call("POST", "/nodes/one/cordon").json()["cordoned"]
    refused = own_fleet.call("POST", "/instances", json={"model_name": "org/tiny"})
    assert refused.status_code == 503
    assert "one is cordoned: it takes no new instances" in refused.json()["error"]["message"]
    assert own_fleet.record(kept)["status"] == "running"
    assert not own_fleet.call("POST", "/nodes/one/uncordon").json()["cordoned"]
    assert own_fleet.create()["node"] == "one"
    assert own_fleet.call("POST", "/nodes/none/cordon").status_code == 404


def test_a_drained_node_lets_requests_end_and_then_is_empty(own_fleet: LocalFleet) -> None:
    own_fleet.start_web()
    own_fleet.start_worker("one", DRAIN_TIMEOUT="1")  # a drain has patience of its own
    busy = own_fleet.create(token_gap=0.1)["instance_id"]
    idle = own_fleet.create()["instance_id"]
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(chat, own_fleet, busy, 60)
        assert until(lambda: _is_used(own_fleet.record(busy)), LONG_S)
        drained = own_fleet.call("POST", "/nodes/one/drain")
        assert (drained.status_code, drained.json()["drained"]) == (202, False)
        own_fleet.becomes(idle, "stopped")
        assert own_fleet.record(busy)["status"] == "stopping"
        assert answer.result().status_code == 200
        assert len(answer.result().json()["choices"][0]["message"]["content"].split()) == 60
    emptied = own_fleet.call("POST", "/nodes/one/drain", params={"wait": "30"})
    assert (emptied.status_code, emptied.json()["drained"]) == (200, True)
    record = own_fleet.record(busy)
    assert (record["status"], record["reason"]) == ("stopped", "node one is drained")


def test_what_comes_to_a_draining_node_all_the_same_leaves_it(own_fleet: LocalFleet) -> None:
    """As where its record was lost with Redis, and comes back with its worker."""
    own_fleet.start_web()
    own_fleet.start_worker("one", KEEP_ENGINES="true").end(signal.SIGKILL)
    assert own_fleet.call("POST", "/nodes/one/uncordon").status_code == 200
    instance_id = asked(own_fleet)["instance_id"]
    own_fleet.call("POST", "/nodes/one/cordon")
    with_drain = own_fleet.call("POST", "/nodes/one/drain")
    assert with_drain.status_code == 202
    own_fleet.start_worker("one")
    own_fleet.becomes(instance_id, "stopped", LONG_S)


# lost and back


def test_a_lost_node_is_shown_and_its_return_is_seamless(own_fleet: LocalFleet) -> None:
    own_fleet.start_web()
    worker = own_fleet.start_worker("one")
    instance_id = own_fleet.create()["instance_id"]
    os.kill(worker.popen.pid, signal.SIGSTOP)
    try:
        assert until(lambda: node_of(own_fleet)["status"] == "lost", LONG_S)
        assert own_fleet.record(instance_id)["node_status"].startswith("lost: silent for 1")
        refused = own_fleet.call("POST", "/instances", json={"model_name": "org/tiny"})
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        assert chat(own_fleet, instance_id, 1).status_code == 200, "its engine lives on"
        assert own_fleet.call("DELETE", "/nodes/one").status_code == 409
        os.kill(own_fleet.record(instance_id)["pid"], signal.SIGKILL)
        assert until(lambda: chat(own_fleet, instance_id, 1).status_code == 503, LONG_S)
        answer = chat(own_fleet, instance_id, 1)
        assert "node one is lost: silent for" in answer.json()["error"]["message"]
        assert int(answer.headers["Retry-After"]) > 0
    finally:
        os.kill(worker.popen.pid, signal.SIGCONT)
    assert until(lambda: node_of(own_fleet)["status"] == "alive", LONG_S)
    assert own_fleet.create()["node"] == "one"


def test_a_node_that_is_gone_for_good_is_forgotten(own_fleet: LocalFleet) -> None:
    own_fleet.start_web()
    worker = own_fleet.start_worker("one")
    own_fleet.start_worker("two")
    worker.end()
    assert until(lambda: node_of(own_fleet)["status"] == "lost", LONG_S)
    assert own_fleet.call("DELETE", "/nodes/one").json() == {"status": "deleted", "name": "one"}
    assert own_fleet.call("GET", "/nodes").json().keys() == {"two"}
    assert own_fleet.create()["node"] == "two"


# lists


@pytest.fixture
def three(own_fleet: LocalFleet) -> LocalFleet:
    """Return a fleet of three nodes, of which one is cordoned and another has stopped."""
    own_fleet.start_web()
    own_fleet.start_worker("a", NODE_LABELS="zone=x")
    own_fleet.start_worker("b", NODE_LABELS="zone=y")
    own_fleet.start_worker("c", NODE_LABELS="zone=x").end()
    own_fleet.call("POST", "/nodes/b/cordon")
    return own_fleet


def test_nodes_are_listed_in_pages_and_by_what_they_are(three: LocalFleet) -> None:
    def listed(query: str) -> list[str]:
        return list(three.call("GET", f"/nodes{query}").json())

    assert until(lambda: listed("?status=lost") == ["c"], LONG_S)
    assert listed("") == ["a", "b", "c"]
    assert listed("?status=alive") == ["a", "b"]
    assert listed("?status=cordoned") == ["b"]
    assert listed("?label=zone=x") == ["a", "c"]
    page = three.call("GET", "/nodes?limit=2&label=zone=x")
    assert list(page.json()) == ["a", "c"]
    assert "Link" not in page.headers
    first = three.call("GET", "/nodes?limit=2")
    assert list(first.json()) == ["a", "b"]
    following = first.links["next"]["url"]
    assert list(three.call("GET", following).json()) == ["c"]
    for wrong in ("?status=dead", "?label=zone", "?limit=0", "?limit=x"):
        answer = three.call("GET", f"/nodes{wrong}")
        assert answer.status_code == 400, wrong
        assert answer.json()["error"]["param"] in ("status", "label", "limit")


# what the driver says


def test_memory_that_strangers_hold_is_told_and_left_to_them(
    own_fleet: LocalFleet, tmp_path: Path
) -> None:
    holder = subprocess.Popen(["sleep", "600"])
    try:
        said = tmp_path / "driver.json"
        said.write_text(json.dumps({"count": 1, "holders": {"GPU-0": [holder.pid]}}))
        driver = {"PYTHONPATH": str(ROOT / "tests/faults/driver"), "STANDIN_DRIVER": str(said)}
        own_fleet.start_web()
        own_fleet.start_worker("one", **driver)
        assert until(lambda: node_of(own_fleet)["gpus"][0]["free_mib"] is not None, LONG_S)
        gpu = node_of(own_fleet)["gpus"][0]
        assert (gpu["total_mib"], gpu["free_mib"], gpu["foreign_mib"]) == (80_000, 60_000, 20_000)
        assert not gpu["simulated"]
        whole = {"model_name": "org/tiny", "params": {"gpu_memory_utilization": 0.9}}
        refused = own_fleet.call("POST", "/instances", json=whole)
        assert refused.status_code == 503, refused.text
        fits = own_fleet.create(gpu_memory_utilization=0.5)
        assert fits["gpus"] == ["GPU-0"]
        assert launch_of(own_fleet, fits["instance_id"])["env"]["CUDA_VISIBLE_DEVICES"] == "GPU-0"
    finally:
        holder.kill()
        holder.wait()
