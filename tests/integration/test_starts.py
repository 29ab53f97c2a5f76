"""A start as its caller sees it: stages, how much of each is done, when it will be ready."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from shared.domain.instance import Exit
from tests.corpus.cgroup import can_limit_memory, limited_memory
from tests.demo.waiting import until
from tests.integration.harness import LocalFleet
from workers.causes import cause_of_death
from workers.causes.oom import OomKiller

MIB = 2**20


def starts(fleet: LocalFleet, model: str = "org/tiny", **params: object) -> str:
    """Begin a start; return the instance's id."""
    body = {"model_name": model, "params": params}
    answer = fleet.call("POST", "/instances", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["instance_id"])


def seen_until_it_runs(fleet: LocalFleet, instance_id: str) -> list[Any]:
    """Return the records of a start, from its begin to the first one that runs."""
    seen: list[Any] = []

    def runs() -> bool:
        seen.append(fleet.record(instance_id))
        return bool(seen[-1]["status"] == "running")

    assert until(runs, 30), seen[-1]
    return seen


def test_a_start_tells_its_stages_and_the_next_one_when_it_will_be_ready(fleet: LocalFleet) -> None:
    first = starts(fleet, start_delay=2)
    seen = seen_until_it_runs(fleet, first)
    loading = [record for record in seen if record["stage"] == "weights"]
    assert all(record["eta"] is None for record in seen)  # the first of its kind
    assert {record["progress"] for record in loading} <= {0.0, 0.25, 0.5, 0.75, 1.0, None}
    assert any(record["stage_detail"].partition("/")[2] for record in loading)
    assert (seen[-1]["stage"], seen[-1]["stage_detail"], seen[-1]["eta"]) == ("", "", None)
    fleet.delete(first)

    seen = seen_until_it_runs(fleet, starts(fleet, start_delay=2))
    expected = [record["eta"] for record in seen[:-1] if record["eta"] is not None]
    assert expected
    assert abs(expected[0] - seen[-1]["ready_at"]) < 20  # a busy machine is no promise
    assert seen[-1]["eta"] is None


def test_a_silent_download_is_a_stage_by_the_files_it_leaves(
    own_fleet: LocalFleet, tmp_path: Path
) -> None:
    own_fleet.start_worker("one", HF_HOME=str(tmp_path / "hf"))
    own_fleet.start_web()
    instance_id = starts(own_fleet, "org/big", bind_delay=60)
    assert until(lambda: own_fleet.record(instance_id)["pid"], 20)
    sleep(0.5)  # for a first look at a folder that is not there
    blobs = tmp_path / "hf/hub/models--org--big/blobs"
    blobs.mkdir(parents=True)
    (blobs / "aa.incomplete").write_bytes(bytes(8 * MIB))
    assert until(lambda: own_fleet.record(instance_id)["stage"] == "download", 30)
    assert own_fleet.record(instance_id)["stage_detail"] == "8 MiB"


@pytest.mark.skipif(not can_limit_memory(), reason="needs root and control groups")
def test_a_kill_for_want_of_memory_is_told_by_the_kernel() -> None:
    killer = OomKiller()
    killer.look()
    with limited_memory(32) as group:
        greedy = group.entered_by([sys.executable, "-c", "held = bytearray(2**28)"])
        with subprocess.Popen(greedy) as process:
            ended = Exit(code=None, signal=-process.wait(20), at=None)
        told = killer.struck(process.pid, [], 20.0)
        assert group.oom_kills() == 1
    assert cause_of_death(ended, [], out_of_memory=told).code == "host_out_of_memory"
    assert f"(pid {process.pid})" in told
