"""Redis emptied, or set back to an older copy of itself, under a fleet that runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from shared.store.redis import RedisStore, connect
from tests.demo.waiting import until
from tests.integration.harness import LocalFleet, Process, local_fleet, processes_of
from workers import manifest
from workers.run_directory import RunDirectory

BACK_S = 30.0
ORPHAN_GRACE_S = 4.0


@pytest.fixture(scope="module")
def module_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    env = {"ORPHAN_GRACE": str(ORPHAN_GRACE_S), "RESTART_BACKOFF": "60"}
    with local_fleet(tmp_path_factory.mktemp("fleet"), **env) as fleet:
        fleet.start_worker("one")
        fleet.start_web()
        yield fleet


@pytest.fixture
def fleet(module_fleet: LocalFleet) -> Iterator[LocalFleet]:
    yield module_fleet
    module_fleet.delete_all()


@contextmanager
def client_of(fleet: LocalFleet) -> Iterator[Any]:
    """Give a client of the fleet's Redis that sees bytes."""
    with redis.Redis.from_url(fleet.redis_url) as client:
        yield client


def kept(fleet: LocalFleet, instance_id: str, status: str) -> bool:
    """Return once node one has kept the record with that status: the worker's next few lines."""
    run = RunDirectory(fleet.run_dir("one") / "engines" / instance_id)
    return until(lambda: (found := manifest.kept(run)) and found.status == status, BACK_S)


def flush(fleet: LocalFleet) -> None:
    """Have Redis lose everything, but nothing that is a moment old."""
    for instance_id, record in fleet.call("GET", "/instances").json().items():
        assert kept(fleet, instance_id, record["status"])
    with client_of(fleet) as client:
        client.flushall()


def copy_of(fleet: LocalFleet) -> dict[bytes, bytes]:
    """Return everything that Redis holds."""
    with client_of(fleet) as client:
        return {key: client.dump(key) for key in client.scan_iter()}


def set_back(fleet: LocalFleet, copy: dict[bytes, bytes]) -> None:
    """Have Redis hold that copy, and nothing else, in one step."""
    with client_of(fleet) as client, client.pipeline(transaction=True) as pipe:
        pipe.flushall()
        for key, value in copy.items():
            pipe.restore(key, 0, value)
        pipe.execute()


def claims(fleet: LocalFleet) -> set[str]:
    """Return who holds a place on the node."""
    with client_of(fleet) as client:
        return {instance_id.decode() for instance_id in client.hkeys("fleet:claims:one")}


def same(before: Any, after: Any) -> bool:
    """Return whether that is the same running engine, at the same place."""
    names = ("instance_id", "model_name", "params", "timeout", "status", "node", "host", "port",
             "pid", "created_at", "ready_at", "restarts")  # fmt: skip
    return all(before[name] == after.get(name) for name in names)


def is_back(fleet: LocalFleet, before: Any) -> bool:
    """Return whether a running instance is on record as it was."""
    return until(lambda: same(before, fleet.record(before["instance_id"])), BACK_S)


def answers(fleet: LocalFleet, instance_id: str) -> bool:
    """Return whether its engine is reached."""
    return fleet.call("GET", f"/proxy/{instance_id}/v1/models").status_code == 200


def reasons(fleet: LocalFleet, instance_id: str) -> list[str]:
    """Return why the worker changed an instance."""
    events = fleet.call("GET", f"/instances/{instance_id}/events").json()["events"]
    return [event["reason"] for event in events if event["by"] == "worker"]


def log_of(fleet: LocalFleet, instance_id: str) -> str:
    """Return what its engine wrote in this run."""
    return fleet.call("GET", f"/instances/{instance_id}/logs?tail=5000").text


def worker_of(fleet: LocalFleet) -> Process:
    """Return the worker that runs."""
    return next(
        process
        for process in reversed(fleet.processes)
        if process.log.name.startswith("one-") and process.popen.poll() is None
    )


def test_what_a_flushed_redis_has_lost_is_rebuilt(fleet: LocalFleet) -> None:
    before = [fleet.create(), fleet.create(timeout=0, max_num_seqs=7)]
    names = {record["instance_id"] for record in before}
    assert until(lambda: all("startup complete" in log_of(fleet, name) for name in names), BACK_S)
    logs = {name: log_of(fleet, name) for name in names}
    flush(fleet)
    assert all(is_back(fleet, record) for record in before)
    assert claims(fleet) == names
    assert all(answers(fleet, name) for name in names)
    assert all("had lost this record" in reasons(fleet, name)[0] for name in names)
    assert until(lambda: all(log_of(fleet, name) == logs[name] for name in names), BACK_S)
    assert fleet.delete(before[0]["instance_id"])["status"] == "deleted"
    assert not until(lambda: fleet.record(before[0]["instance_id"])["status"] != "stopped", 3)


def test_what_was_lost_while_no_worker_was_there_is_rebuilt_by_the_next(fleet: LocalFleet) -> None:
    before = fleet.create()
    crashed = fleet.call(
        "POST", "/instances", json={"model_name": "org/tiny", "params": {"crash_after": 0}}
    ).json()["instance_id"]
    waits = fleet.becomes(crashed, "backoff")
    assert kept(fleet, crashed, "backoff")
    worker_of(fleet).end(signal.SIGKILL)
    flush(fleet)
    fleet.start_worker("one")
    assert is_back(fleet, before)
    again = fleet.record(crashed)
    told = ("cause", "reason", "retry_at", "run", "first_cause", "exit")
    assert [again[name] for name in told] == [waits[name] for name in told]
    assert answers(fleet, before["instance_id"])


def test_what_ended_is_not_rebuilt(fleet: LocalFleet) -> None:
    gone, stays = fleet.create()["instance_id"], fleet.create()
    fleet.delete(gone)
    assert kept(fleet, gone, "stopped")
    flush(fleet)
    assert is_back(fleet, stays)
    assert fleet.call("GET", f"/instances/{gone}").status_code == 404


def test_redis_set_back_brings_neither_ghosts_nor_amnesia(fleet: LocalFleet) -> None:
    stays, goes = fleet.create(), fleet.create()["instance_id"]
    worker, old = worker_of(fleet), copy_of(fleet)
    fleet.delete(goes)
    came = fleet.create()
    worker.end(signal.SIGKILL)
    fleet.start_worker("one")  # a later epoch than the copy's
    worker = worker_of(fleet)
    set_back(fleet, old)
    assert is_back(fleet, came)
    assert fleet.becomes(goes, "stopped")
    assert is_back(fleet, stays)
    assert claims(fleet) == {stays["instance_id"], came["instance_id"]}
    assert "older copy" in reasons(fleet, goes)[-1]
    assert processes_of(fleet.run_dir("one") / "engines" / goes) == []
    assert worker.popen.poll() is None
    assert fleet.delete(came["instance_id"])["status"] == "deleted"


def test_a_record_set_back_to_before_its_engine_was_spawned_gets_its_place_back(
    fleet: LocalFleet,
) -> None:
    body = {"model_name": "org/tiny", "params": {}}
    worker_of(fleet).popen.send_signal(signal.SIGSTOP)
    created = fleet.call("POST", "/instances", json=body).json()["instance_id"]
    old = copy_of(fleet)
    worker_of(fleet).popen.send_signal(signal.SIGCONT)
    running = fleet.becomes(created, "running")
    assert kept(fleet, created, "running")
    set_back(fleet, old)
    assert is_back(fleet, running)
    assert answers(fleet, created)


def test_a_user_asks_for_the_end_of_what_redis_has_just_lost(fleet: LocalFleet) -> None:
    record = fleet.create()
    flush(fleet)
    assert is_back(fleet, record)
    assert fleet.delete(record["instance_id"])["status"] == "deleted"


# a record that cannot be read


def test_a_record_that_cannot_be_read_leaves_its_engine_alone_and_its_neighbours_supervised(
    fleet: LocalFleet,
) -> None:
    unread, neighbour = fleet.create(), fleet.create()
    name = unread["instance_id"]
    key, worker = f"fleet:instance:{name}", worker_of(fleet)
    with client_of(fleet) as client:
        client.hset(key, "status", "sleeping")
        client.publish("fleet:changes", name)
        asked = fleet.call("GET", f"/instances/{name}")
        assert (asked.status_code, asked.json()["error"]["code"]) == (503, "record_unreadable")
        assert "status: 'sleeping' is not a valid Status" in asked.json()["error"]["message"]
        for method, path in (("GET", "/logs"), ("GET", "/events"), ("DELETE", "")):
            refused = fleet.call(method, f"/instances/{name}{path}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (
                503,
                "record_unreadable",
            )
        assert name in fleet.call("GET", "/readyz").json()["records"]
        assert list(fleet.call("GET", "/instances").json()) == [neighbour["instance_id"]]
        assert answers(fleet, name)  # whoever knows where it is goes on
        worker.end(signal.SIGKILL)
        fleet.start_worker("one")
        os.kill(neighbour["pid"], signal.SIGKILL)
        assert fleet.becomes(neighbour["instance_id"], "backoff", BACK_S)
        assert fleet.delete(neighbour["instance_id"])["status"] == "deleted"
        assert fleet.delete(fleet.create()["instance_id"])["status"] == "deleted"
        # Longer than an engine that no record knows would be left to run.
        assert not until(lambda: not runs(unread["pid"]), 10.0 + 2 * ORPHAN_GRACE_S)
        assert claims(fleet) == {name}
        assert RedisStore(connect(fleet.redis_url)).nodes()[0].orphans == ()
        assert worker_of(fleet).log.read_text().count("its record cannot be read") == 1
        client.delete(key)  # as the message says
    assert is_back(fleet, unread)
    assert "records" not in fleet.call("GET", "/readyz").json()
    assert fleet.delete(name)["status"] == "deleted"


# engines that nobody has a record of


@contextmanager
def stray(fleet: LocalFleet, instance_id: str) -> Iterator[int]:
    """Run a process with the marks of an instance of node one; give its pid."""
    marks = {"FLEET_INSTANCE_ID": instance_id, "FLEET_RUN_DIR": str(fleet.run_dir("one"))}
    code = "print(flush=True); import time; time.sleep(100)"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, **marks},
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def runs(pid: int) -> bool:
    """Return whether a process has not ended."""
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_an_engine_that_nobody_knows_is_reported_first_and_what_is_over_is_ended_at_once(
    fleet: LocalFleet,
) -> None:
    store = RedisStore(connect(fleet.redis_url))
    gone, ours = fleet.create()["instance_id"], fleet.create()
    fleet.delete(gone)
    with stray(fleet, "tiny-unheard2") as unheard, stray(fleet, gone) as over:
        assert until(lambda: store.nodes()[0].orphans, BACK_S)
        (orphan,) = store.nodes()[0].orphans
        assert (orphan.instance_id, orphan.pids) == ("tiny-unheard2", (unheard,))
        assert orphan.reaped_in_s > 0
        assert f"pids {unheard} on node one" in fleet.call("GET", "/readyz").json()["orphans"]
        assert (runs(unheard), runs(over)) == (True, False)
        assert until(lambda: not runs(unheard), ORPHAN_GRACE_S + BACK_S)
    assert until(lambda: not store.nodes()[0].orphans, BACK_S)
    assert "nobody has a record of" in worker_of(fleet).log.read_text()
    assert same(ours, fleet.record(ours["instance_id"]))
