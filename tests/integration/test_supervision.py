"""Engines, shims and workers that die, each in its own way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import redis

from tests.demo.waiting import until
from tests.integration.harness import LocalFleet, processes_of
from workers.run_directory import RunDirectory


def engine_folder(fleet: LocalFleet, record: Any) -> Path:
    """Return the run directory of an instance."""
    return fleet.run_dir(record["node"]) / "engines" / str(record["instance_id"])


@pytest.fixture
def one_node(own_fleet: LocalFleet) -> LocalFleet:
    own_fleet.start_worker("one")
    own_fleet.start_web()
    return own_fleet


def test_an_engine_killed_is_in_backoff_at_once_and_all_of_it_gone(fleet: LocalFleet) -> None:
    record = fleet.create()
    os.kill(record["pid"], signal.SIGKILL)
    crashed = fleet.becomes(record["instance_id"], "backoff", 5)
    assert (crashed["cause"], crashed["first_cause"]) == ("killed", "killed")
    assert (crashed["exit"], crashed["pid"], crashed["port"]) == ("ended by signal 9", None, None)
    assert 9 <= crashed["retry_at"] - crashed["crashes"][0] <= 11
    assert until(lambda: processes_of(engine_folder(fleet, record)) == [], 5)


def test_an_engine_that_crashes_keeps_its_exit_status_and_last_words(fleet: LocalFleet) -> None:
    record = fleet.create(crash_after=0.5, crash_code=7)
    crashed = fleet.becomes(record["instance_id"], "backoff")
    assert crashed["exit"] == "exited with status 7"
    assert any("Traceback" in line for line in crashed["last_log"])


def test_out_of_memory_is_named_with_what_to_change(fleet: LocalFleet) -> None:
    body = {"model_name": "org/tiny", "params": {"oom_message": True}}
    made = fleet.call("POST", "/instances", json=body).json()
    assert until(lambda: fleet.record(made["instance_id"])["cause"], 20)
    record = fleet.record(made["instance_id"])
    assert record["cause"] == "gpu_out_of_memory"
    assert "gpu_memory_utilization" in record["advice"]


def test_a_command_that_is_not_there_is_a_clear_failure(own_fleet: LocalFleet) -> None:
    own_fleet.start_worker("one", VLLM_COMMAND="/no/such/vllm")
    own_fleet.start_web()
    record = own_fleet.create()
    assert record["status"] == "failed"
    assert "/no/such/vllm" in record["reason"]


def test_a_shim_killed_takes_its_engine_along(fleet: LocalFleet) -> None:
    record = fleet.create()
    folder = engine_folder(fleet, record)
    shim = RunDirectory(folder).lock_holder()
    assert shim
    os.kill(shim, signal.SIGKILL)
    fleet.becomes(record["instance_id"], "backoff", 5)
    assert processes_of(folder) == []


def test_an_engine_deaf_to_sigterm_is_killed_at_the_deadline(fleet: LocalFleet) -> None:
    record = fleet.create(ignore_sigterm=True)
    began = monotonic()
    assert fleet.delete(record["instance_id"])["status"] == "deleted"
    assert 3 <= monotonic() - began < 6  # STOP_TIMEOUT is 3 s here
    assert processes_of(engine_folder(fleet, record)) == []


def test_a_stop_whose_shim_is_dead_waits_only_for_the_first_process(own_fleet: LocalFleet) -> None:
    own_fleet.start_worker("one", STOP_TIMEOUT="60")
    own_fleet.start_web()
    record = own_fleet.create(term_delay=1, setsid_child=True)  # which is deaf to SIGTERM
    folder = engine_folder(own_fleet, record)
    shim = RunDirectory(folder).lock_holder()
    assert shim
    own_fleet.call("DELETE", f"/instances/{record['instance_id']}")
    assert until(lambda: RunDirectory(folder).read("stop"), 20)
    until(lambda: False, 0.3)  # it tells its engine
    os.kill(shim, signal.SIGKILL)
    own_fleet.becomes(record["instance_id"], "stopped", 30)
    assert processes_of(folder) == []


def test_a_start_without_progress_is_given_up(own_fleet: LocalFleet) -> None:
    own_fleet.start_worker("one", START_STALL_TIMEOUT="1", RESTART_MAX_FAILED_STARTS="1")
    own_fleet.start_web()
    record = own_fleet.create(never_listen=True)
    assert (record["status"], record["cause"]) == ("failed", "start_stalled")
    assert processes_of(engine_folder(own_fleet, record)) == []


def test_running_requests_end_before_the_engine_does(fleet: LocalFleet) -> None:
    record = fleet.create(token_gap=0.1)
    url = f"/proxy/{record['instance_id']}/v1/completions"
    body = {"model": "org/tiny", "prompt": "x", "max_tokens": 20, "stream": True}
    with fleet.call("POST", url, json=body, stream=True) as answer:
        lines = answer.iter_lines(chunk_size=1)
        next(lines)
        fleet.call("DELETE", f"/instances/{record['instance_id']}")
        refused = fleet.call("POST", url, json=body)
        assert refused.status_code == 503
        assert list(lines)[-2] == b"data: [DONE]"
    assert fleet.becomes(record["instance_id"], "stopped", 5)


def test_engines_outlive_a_killed_worker_and_are_adopted(one_node: LocalFleet) -> None:
    record = one_node.create()
    one_node.processes[0].end(signal.SIGKILL)
    models = f"/proxy/{record['instance_id']}/v1/models"
    assert one_node.call("GET", models).status_code == 200
    one_node.start_worker("one")
    again = one_node.record(record["instance_id"])
    assert again["status"] == "running"
    assert (again["pid"], again["ready_at"]) == (record["pid"], record["ready_at"])
    assert one_node.call("GET", models).status_code == 200
    assert one_node.delete(record["instance_id"])["status"] == "deleted"
    assert processes_of(engine_folder(one_node, record)) == []


def test_an_engine_that_died_while_no_worker_was_there_keeps_its_exit_status(
    one_node: LocalFleet,
) -> None:
    record = one_node.create(crash_after=0.5, crash_code=7)
    one_node.processes[0].end(signal.SIGKILL)
    exited = RunDirectory(engine_folder(one_node, record))
    assert until(lambda: exited.read("exit"), 10)
    one_node.start_worker("one")
    crashed = one_node.becomes(record["instance_id"], "backoff")
    assert crashed["exit"] == "exited with status 7"


@pytest.mark.parametrize("offset_ms", [0, 30, 60, 100, 150, 300])
def test_a_worker_killed_in_the_middle_of_a_start_leaves_one_engine(
    one_node: LocalFleet, offset_ms: int
) -> None:
    body = {"model_name": "org/tiny", "params": {"start_delay": 1}}
    record = one_node.call("POST", "/instances", json=body).json()
    until(lambda: False, offset_ms / 1000)
    one_node.processes[0].end(signal.SIGKILL)
    one_node.start_worker("one")
    running = one_node.becomes(record["instance_id"], "running")
    leaders = [
        pid
        for pid in processes_of(engine_folder(one_node, running))
        if os.getsid(pid) == pid and b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert leaders == [running["pid"]]


def test_a_worker_killed_in_the_middle_of_a_stop_is_finished_by_the_next(
    one_node: LocalFleet,
) -> None:
    record = one_node.create(term_delay=1)
    one_node.call("DELETE", f"/instances/{record['instance_id']}")
    one_node.becomes(record["instance_id"], "stopping")
    until(lambda: False, 0.3)
    one_node.processes[0].end(signal.SIGKILL)
    one_node.start_worker("one")
    assert one_node.delete(record["instance_id"])["status"] == "deleted"
    assert processes_of(engine_folder(one_node, record)) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_worker_told_to_stop_ends_its_engines(
    one_node: LocalFleet, number: signal.Signals
) -> None:
    record = one_node.create()
    one_node.processes[0].end(number)
    assert processes_of(engine_folder(one_node, record)) == []
    stopped = one_node.record(record["instance_id"])
    assert (stopped["status"], stopped["reason"]) == ("stopped", "the worker of one was stopped")


def test_with_keep_engines_a_worker_told_to_stop_leaves_them(own_fleet: LocalFleet) -> None:
    first = own_fleet.start_worker("one", KEEP_ENGINES="true")
    own_fleet.start_web()
    record = own_fleet.create()
    first.end()
    assert own_fleet.record(record["instance_id"])["node_status"].startswith("lost")
    own_fleet.start_worker("one")
    again = own_fleet.record(record["instance_id"])
    assert (again["status"], again["pid"]) == ("running", record["pid"])


def test_a_worker_stopped_without_redis_ends_its_engines_and_the_next_one_says_so(
    one_node: LocalFleet,
) -> None:
    record = one_node.create()
    redis = one_node.redis_pid()
    os.kill(redis, signal.SIGSTOP)
    try:
        one_node.processes[0].popen.send_signal(signal.SIGTERM)
        assert until(lambda: processes_of(engine_folder(one_node, record)) == [], 15)
        one_node.processes[0].popen.wait(40)
    finally:
        os.kill(redis, signal.SIGCONT)
    one_node.start_worker("one")
    stopped = one_node.becomes(record["instance_id"], "stopped")
    assert stopped["reason"] == "the worker of one was stopped"


def test_a_worker_stopped_without_redis_kills_what_no_shim_will_end(own_fleet: LocalFleet) -> None:
    worker = own_fleet.start_worker("one", STOP_TIMEOUT="1")
    own_fleet.start_web()
    record = own_fleet.create(ignore_sigterm=True)
    folder = engine_folder(own_fleet, record)
    shim = RunDirectory(folder).lock_holder()
    assert shim
    redis = own_fleet.redis_pid()
    os.kill(redis, signal.SIGSTOP)  # without the record nothing is planned
    try:
        os.kill(shim, signal.SIGKILL)
        worker.end(signal.SIGTERM)
        assert processes_of(folder) == []
    finally:
        os.kill(redis, signal.SIGCONT)


def test_a_log_flood_does_not_stop_the_engine_and_stays_bounded(fleet: LocalFleet) -> None:
    record = fleet.create(log_flood=100)
    folder = engine_folder(fleet, record)
    assert until((folder / "run-1.log.1").exists, 20)
    assert fleet.call("GET", f"/proxy/{record['instance_id']}/v1/models").status_code == 200
    assert sum(path.stat().st_size for path in folder.glob("run-*.log*")) < 40 * 2**20
    assert fleet.delete(record["instance_id"])["status"] == "deleted"


def test_with_redis_frozen_engines_go_on_and_the_worker_comes_back(one_node: LocalFleet) -> None:
    record = one_node.create()
    models = f"/proxy/{record['instance_id']}/v1/models"
    redis = one_node.redis_pid()
    os.kill(redis, signal.SIGSTOP)
    try:
        assert one_node.call("GET", models).status_code == 200
        began = monotonic()
        refused = one_node.call("POST", "/instances", json={"model_name": "m"})
        assert refused.status_code == 503
        assert monotonic() - began < 5
    finally:
        os.kill(redis, signal.SIGCONT)
    assert one_node.create()["status"] == "running"


def test_a_run_directory_removed_by_hand_hides_no_engine(one_node: LocalFleet) -> None:
    record = one_node.create()
    folder = engine_folder(one_node, record)

    def removed() -> bool:  # the worker may be writing the last of what it keeps of the start
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    assert until(removed, 10)
    one_node.becomes(record["instance_id"], "backoff")
    assert processes_of(folder) == []
    assert one_node.delete(record["instance_id"])["status"] == "deleted"


def test_a_flushed_redis_ends_neither_worker_nor_engine(one_node: LocalFleet) -> None:
    record = one_node.create()
    with redis.Redis.from_url(one_node.redis_url) as client:
        client.flushall()
    assert until(lambda: one_node.call("GET", "/readyz").ok, 15)
    assert one_node.create()["status"] == "running"
    os.kill(record["pid"], 0)  # raises if it is gone


def test_a_stray_file_among_the_run_directories_is_left_alone(own_fleet: LocalFleet) -> None:
    engines = own_fleet.run_dir("one") / "engines"
    engines.mkdir(parents=True)
    (engines / "stray").write_text("x")
    own_fleet.start_worker("one")
    own_fleet.start_web()
    assert own_fleet.create()["status"] == "running"


def test_a_stranger_whose_name_is_no_text_stops_nothing(fleet: LocalFleet) -> None:
    code = (
        "import ctypes, time; ctypes.CDLL(None).prctl(15, 'a模型服务进程'.encode()); "
        "print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout
        stranger.stdout.readline()
        try:
            record = fleet.create()
            assert fleet.delete(record["instance_id"])["status"] == "deleted"
        finally:
            stranger.kill()


def test_sighup_ends_neither_worker_nor_engine(one_node: LocalFleet) -> None:
    record = one_node.create()
    one_node.processes[0].popen.send_signal(signal.SIGHUP)
    until(lambda: False, 1)
    assert one_node.record(record["instance_id"])["status"] == "running"
    assert one_node.create()["status"] == "running"


def test_signals_that_are_not_its_own_leave_a_shim_alone(fleet: LocalFleet) -> None:
    record = fleet.create()
    shim = RunDirectory(engine_folder(fleet, record)).lock_holder()
    assert shim
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(shim, number)
    until(lambda: False, 0.5)
    assert fleet.record(record["instance_id"])["status"] == "running"


def test_a_stuck_shim_does_not_keep_a_dead_engine_running(own_fleet: LocalFleet) -> None:
    own_fleet.start_worker("one", STOP_TIMEOUT="1")
    own_fleet.start_web()
    record = own_fleet.create()
    shim = RunDirectory(engine_folder(own_fleet, record)).lock_holder()
    assert shim
    os.kill(shim, signal.SIGSTOP)
    os.kill(record["pid"], signal.SIGKILL)
    own_fleet.becomes(record["instance_id"], "unhealthy", 5)  # it is stuck for 10 s to come
    own_fleet.becomes(record["instance_id"], "backoff", 30)
    assert processes_of(engine_folder(own_fleet, record)) == []


def test_another_machine_with_the_same_name_is_refused(one_node: LocalFleet) -> None:
    record = one_node.create()
    settings = {"NODE_NAME": "one", "RUN_DIR": str(one_node.folder / "elsewhere")}
    other = one_node.start("other", [sys.executable, "-m", "workers"], settings)
    other.popen.wait(20)
    assert "give each its own NODE_NAME" in other.log.read_text()
    assert one_node.record(record["instance_id"])["status"] == "running"


def test_a_missing_engine_env_file_is_said_at_start(own_fleet: LocalFleet) -> None:
    settings = {"RUN_DIR": str(own_fleet.run_dir("one")), "ENGINE_ENV_FILE": "/no/such.env"}
    worker = own_fleet.start("one", [sys.executable, "-m", "workers"], settings)
    assert worker.popen.wait(20) != 0
    assert "ENGINE_ENV_FILE=/no/such.env: there is no such file" in worker.log.read_text()


def test_a_second_embedded_redis_on_a_run_directory_refuses_to_start(
    own_fleet: LocalFleet,
) -> None:
    command = [sys.executable, "-m", "shared.embedded_redis"]
    settings = {"REDIS_URL": "", "RUN_DIR": str(own_fleet.folder / "shared-run")}
    first = own_fleet.start("redis", command, settings)
    assert until(lambda: "ready to accept" in first.log.read_text(), 10)
    second = own_fleet.start("redis", command, settings)
    assert second.popen.wait(10) != 0
    assert "a Redis already runs" in second.log.read_text()
    assert first.popen.poll() is None
