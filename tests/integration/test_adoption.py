"""Workers that are killed and come again: what they find running, half begun, or gone."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.domain.instance import Status
from shared.store import Change
from shared.store.redis import RedisStore, connect
from tests.demo.waiting import until
from tests.integration.harness import LocalFleet, Process, local_fleet, processes_of
from workers.run_directory import RunDirectory

WAIT_S = 40.0


@pytest.fixture(scope="module")
def module_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    with local_fleet(tmp_path_factory.mktemp("fleet"), RESTART_BACKOFF="60") as fleet:
        fleet.start_worker("one")
        fleet.start_web()
        yield fleet


@pytest.fixture
def fleet(module_fleet: LocalFleet) -> Iterator[LocalFleet]:
    yield module_fleet
    module_fleet.delete_all()


def worker_of(fleet: LocalFleet) -> Process:
    """Return the worker that was started last."""
    return next(p for p in reversed(fleet.processes) if p.log.name.startswith("one-"))


def run_directory(fleet: LocalFleet, instance_id: str) -> RunDirectory:
    """Return the run directory of an instance of node one."""
    return RunDirectory(fleet.run_dir("one") / "engines" / instance_id)


def leaders(fleet: LocalFleet, instance_id: str) -> list[int]:
    """Return the first processes of all engines of an instance."""
    return [
        pid
        for pid in processes_of(run_directory(fleet, instance_id).path)
        if os.getsid(pid) == pid and b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def begun(fleet: LocalFleet, **params: object) -> str:
    """Ask for an instance; return its id at once."""
    body = {"model_name": "org/tiny", "params": params}
    return str(fleet.call("POST", "/instances", json=body).json()["instance_id"])


def test_a_stream_does_not_notice_that_the_worker_is_killed_and_another_comes(
    fleet: LocalFleet,
) -> None:
    records = [fleet.create(token_gap=0.1), fleet.create()]
    url = f"/proxy/{records[0]['instance_id']}/v1/completions"
    body = {"model": "org/tiny", "prompt": "x", "max_tokens": 80, "stream": True}
    with fleet.call("POST", url, json=body, stream=True) as answer:
        lines = answer.iter_lines(chunk_size=1)
        next(lines)
        worker_of(fleet).end(signal.SIGKILL)
        fleet.start_worker("one")
        assert list(lines)[-2] == b"data: [DONE]"
    for before in records:
        after = fleet.record(before["instance_id"])
        same = ("status", "pid", "ready_at", "port", "restarts", "started_at")
        assert [after[name] for name in same] == [before[name] for name in same]
        assert leaders(fleet, before["instance_id"]) == [before["pid"]]


def test_a_start_that_a_killed_worker_had_only_announced_is_made_by_the_next(
    fleet: LocalFleet,
) -> None:
    worker = worker_of(fleet)
    worker.popen.send_signal(signal.SIGSTOP)
    name = begun(fleet)
    worker.end(signal.SIGKILL)
    store = RedisStore(connect(fleet.redis_url))
    epoch = json.loads((fleet.run_dir("one") / "node.json").read_text())["epoch"]
    told = {"run": 1, "host": "127.0.0.1", "port": 1, "engine_key": "old"}
    assert store.apply(
        Change(instance_id=name, node="one", epoch=epoch, generation=1,
               status=Status.STARTING, fields=told)
    )  # fmt: skip
    run = run_directory(fleet, name)
    run.make()
    run.write("launch", {"run": 1, "command": ["false"], "env": {}, "host": "127.0.0.1",
                         "port": 1, "key": "old", "url": "", "names": []})  # fmt: skip
    fleet.start_worker("one")
    running = fleet.becomes(name, "running", WAIT_S)
    assert (running["run"], running["restarts"], running["cause"]) == (1, 0, "")
    assert leaders(fleet, name) == [running["pid"]]


def killed_with_its_shim(fleet: LocalFleet) -> Any:
    """Return the record of an instance whose shim was killed while no worker was there."""
    record = fleet.create()
    run = run_directory(fleet, record["instance_id"])
    worker_of(fleet).end(signal.SIGKILL)
    shim = run.lock_holder()
    assert shim
    os.kill(shim, signal.SIGKILL)
    return record


def test_a_killed_shim_is_told_from_a_reboot(fleet: LocalFleet) -> None:
    record = killed_with_its_shim(fleet)
    name = record["instance_id"]
    fleet.start_worker("one")
    waits = fleet.becomes(name, "backoff", WAIT_S)
    assert waits["cause"] == "shim_lost"
    assert "its shim was killed, and no reboot did it" in waits["reason"]
    assert processes_of(run_directory(fleet, name).path) == []


def test_a_reboot_is_told_from_a_killed_shim(fleet: LocalFleet) -> None:
    record = killed_with_its_shim(fleet)
    name, run = record["instance_id"], run_directory(fleet, record["instance_id"])
    for pid in processes_of(run.path):
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: processes_of(run.path) == [], WAIT_S)
    state = run.read("state")
    assert state
    run.write("state", state | {"boot_id": "of-another-boot"})
    fleet.start_worker("one")
    waits = fleet.becomes(name, "backoff", WAIT_S)
    assert (waits["cause"], waits["pid"]) == ("node_rebooted", None)


@pytest.mark.parametrize("offset_ms", [0, 60])
def test_a_delete_right_behind_a_create_leaves_nothing(fleet: LocalFleet, offset_ms: int) -> None:
    name = begun(fleet)
    until(lambda: False, offset_ms / 1000)
    assert fleet.delete(name)["status"] == "deleted"
    assert processes_of(run_directory(fleet, name).path) == []
