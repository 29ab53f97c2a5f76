"""Rows 26 to 32: Redis dead, frozen, failed over, full, emptied, and old."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from time import monotonic

import requests

from shared.domain.node import HEARTBEAT_S
from tests.faults import bells, sight
from tests.faults.ground import Ground, Setup
from tests.faults.row import Figures, Promise, Row
from tests.faults.timing import pause, seconds_until
from tests.faults.traffic import traffic

_DOWN_S = (0.2, 3.0, 8.0, 60.0)
_FROZEN_S = 30.0
_FAILOVER_S = 5.0
_WORKER_MEETS_IT_S = HEARTBEAT_S + 1.0  # it writes a heartbeat in that time
_SMALL_DISK = Setup(small_disk_mib=4)


def killed(ground: Ground, number: int) -> Figures:
    """Row 26."""
    record = ground.create()
    instance_id = record["instance_id"]
    with traffic(ground, instance_id) as seen:
        ground.redis.kill()
        pause(_DOWN_S[number % len(_DOWN_S)])
        ground.redis.start()
        up = monotonic()
        consumed_s = bells.answered_s(ground, 60, since=up)
        seconds_until(lambda: ground.fleet.call("GET", "/readyz").ok, 20, what="the web is ready")
    assert ground.record(instance_id)["pid"] == record["pid"]
    return {
        "consumes again": consumed_s,
        "engine restarts": ground.spawns(instance_id) - 1,
        "failed requests": seen.failed,
    }


def frozen(ground: Ground, _: int) -> Figures:
    """Row 27."""
    record = ground.create()
    took: list[float] = []
    with traffic(ground, record["instance_id"]) as seen, ground.redis.frozen():
        begun = monotonic()
        while monotonic() - begun < _FROZEN_S:
            asked = monotonic()
            answer = requests.get(f"{ground.fleet.base}/instances/x", timeout=30)
            took.append(monotonic() - asked)
            assert answer.status_code == 503, answer.status_code
    pause(3.0)
    assert ground.record(record["instance_id"])["pid"] == record["pid"]
    return {
        "slowest refusal": max(took),
        "failed requests": seen.failed_percent,
        "engine restarts": ground.spawns(record["instance_id"]) - 1,
    }


def failed_over(ground: Ground, _: int) -> Figures:
    """Row 28."""
    record, worker = ground.create(), ground.workers["one"]
    with ground.redis.failed_over():
        pause(_FAILOVER_S)
    consumed_s = bells.answered_s(ground, 60)
    assert worker.popen.poll() is None, f"the worker exited with {worker.popen.poll()}"
    return {
        "consumes again": consumed_s,
        "engine restarts": ground.spawns(record["instance_id"]) - 1,
    }


def full(ground: Ground, _: int) -> Figures:
    """Row 29."""
    record = ground.create()
    before, claims = ground.redis.keys(), _claims(ground)
    with ground.redis.full():
        for _ in range(5):
            body = {"model_name": "org/tiny"}
            refused = ground.fleet.call("POST", "/instances", json=body)
            assert refused.status_code == 503, f"{refused.status_code}: {refused.text}"
        pause(_WORKER_MEETS_IT_S)
    pause(0.5)
    after = ground.redis.keys()
    assert _claims(ground) == claims, "a place is claimed, or listed, for what was refused"
    begun = monotonic()
    other = ground.create()
    recovered_s = monotonic() - begun
    assert ground.record(record["instance_id"])["pid"] == record["pid"]
    ground.delete(other["instance_id"])
    kinds = ("instance", "events", "log", "once")
    return {
        "half records": sum(after.get(k, 0) - before.get(k, 0) for k in kinds),
        "next create": recovered_s,
    }


def _claims(ground: Ground) -> tuple[int, ...]:
    return (
        ground.redis.do("HLEN", "fleet:claims:one"),
        ground.redis.do("SCARD", "fleet:placed:one"),
        ground.redis.do("ZCARD", "fleet:instances"),
    )


def disk_full(ground: Ground, _: int) -> Figures:
    """Row 30."""
    record = ground.create()
    ballast = ground.folder / "ballast"
    filled = _fill(ballast)
    try:
        seconds_until(
            lambda: (
                ground.fleet.call("POST", "/instances", json={"model_name": "org/tiny"}).status_code
                == 503
            ),
            30,
            what="a create is refused",
        )
        assert ground.fleet.call("GET", "/instances").status_code == 200
        pause(_WORKER_MEETS_IT_S)
    finally:
        ballast.unlink()
    begun = monotonic()
    seconds_until(
        lambda: (
            ground.fleet.call("POST", "/instances", json={"model_name": "org/tiny"}).status_code
            == 202
        ),
        30,
        what="a create is accepted again",
    )
    accepted_s = monotonic() - begun
    assert ground.create()["status"] == "running"  # the worker is well again, too
    assert ground.record(record["instance_id"])["pid"] == record["pid"]
    assert filled
    return {
        "accepts again": accepted_s,
        "engine restarts": ground.spawns(record["instance_id"]) - 1,
    }


def flushed(ground: Ground, _: int) -> Figures:
    """Row 31."""
    made = [ground.create(timeout=500 + i) for i in range(3)]
    before = sight.engines(ground.folder)
    with traffic(ground, *(r["instance_id"] for r in made)) as seen:
        ground.redis.do("FLUSHALL")
        begun = monotonic()
        seconds_until(
            lambda: all(ground.status(r["instance_id"]) == "running" for r in made),
            30,
            what="all are back on record",
        )
        back_s = monotonic() - begun
        pause(6.0)  # a refresh of the routing tables
    for record in made:
        now = ground.record(record["instance_id"])
        for name in ("pid", "port", "params", "timeout", "model_name", "node"):
            assert now[name] == record[name], f"{name} was {record[name]}, is {now[name]}"
    assert sight.engines(ground.folder) == before, "engines were killed or started"
    other = ground.create()  # claims are back, too: no port twice
    assert other["port"] not in {record["port"] for record in made}
    return {"all back": back_s, "failed requests": seen.failed}


def restored_from_old(ground: Ground, _: int) -> Figures:
    """Row 32."""
    kept, ended = ground.create(), ground.create()
    data, copy = Path(ground.redis.folder), ground.folder / "old"
    ground.redis.kill()
    shutil.copytree(data, copy, dirs_exist_ok=True)
    ground.redis.start()
    bells.answered_s(ground, 30)
    younger = ground.create()
    ground.delete(ended["instance_id"])
    alive = sight.engines(ground.folder)
    ground.redis.kill()
    shutil.rmtree(data)
    shutil.move(copy, data)
    ground.redis.start()
    begun = monotonic()
    seconds_until(
        lambda: (
            ground.status(younger["instance_id"]) == "running"
            and ground.status(kept["instance_id"]) == "running"
            and ground.status(ended["instance_id"]) == "stopped"
        ),
        30,
        what="records tell what runs",
    )
    took_s = monotonic() - begun
    pause(2.0)
    now = sight.engines(ground.folder)
    for record, what in ((younger, "had lost this record"), (ended, "had an older copy")):
        assert any(what in said for said in _repairs(ground, record["instance_id"])), (
            f"no event of {record['instance_id']} says that the store {what}"
        )
    assert not _repairs(ground, kept["instance_id"]), "what was never in conflict was written over"
    return {
        "wrong kills": sum(now.get(i) != pids for i, pids in alive.items()),
        "raised from the dead": len(now.keys() - alive.keys()),
        "records right": took_s,
    }


def _repairs(ground: Ground, instance_id: str) -> list[str]:
    return [
        event["reason"]
        for event in ground.events(instance_id)
        if event["by"] == "worker" and event["reason"].startswith("the store had")
    ]


def _fill(path: Path) -> bool:
    with path.open("wb", buffering=0) as file:
        for size in (65_536, 4096, 512, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return True


def freeze(pid: int, seconds: float) -> None:
    """Stop a process for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        pause(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


ROWS = (
    Row(
        number=26,
        fault="Redis killed",
        done="kill -9; started again after 0.2, 3, 8, 60 s in turn; append-only file",
        promise="503 at once, then all goes on; no engine is touched",
        figures=(
            Promise(name="consumes again", at_most=6, unit="s"),
            Promise(name="engine restarts", at_most=0),
            Promise(name="failed requests", at_most=0),
        ),
        run=killed,
        runs=4,
    ),
    Row(
        number=27,
        fault="Redis frozen",
        done=f"SIGSTOP for {_FROZEN_S:g} s",
        promise="control requests are refused soon, requests to engines go on",
        figures=(
            Promise(name="slowest refusal", at_most=2.5, unit="s"),
            Promise(name="failed requests", at_most=1, unit="%"),
            Promise(name="engine restarts", at_most=0),
        ),
        run=frozen,
        runs=2,
    ),
    Row(
        number=28,
        fault="Redis failed over",
        done=f"REPLICAOF somebody else for {_FAILOVER_S:g} s, then NO ONE",
        promise="the worker lives and consumes",
        figures=(
            Promise(name="consumes again", at_most=10, unit="s"),
            Promise(name="engine restarts", at_most=0),
        ),
        run=failed_over,
        runs=3,
    ),
    Row(
        number=29,
        fault="Redis out of memory",
        done="maxmemory 1, noeviction; five creates",
        promise="503, no half record; well again when there is memory",
        figures=(
            Promise(name="half records", at_most=0),
            Promise(name="next create", at_most=5, unit="s"),
        ),
        run=full,
        short=True,
    ),
    Row(
        number=30,
        fault="Redis's disk full",
        done="its data on a tmpfs of 4 MiB, filled",
        promise="503, reads go on; well again when there is room",
        figures=(
            Promise(name="accepts again", at_most=5, unit="s"),
            Promise(name="engine restarts", at_most=0),
        ),
        run=disk_full,
        runs=3,
        setup=_SMALL_DISK,
    ),
    Row(
        number=31,
        fault="Redis flushed",
        done="FLUSHALL under requests to three engines",
        promise="all records are back as they were, claims too; nothing is killed",
        figures=(
            Promise(name="all back", at_most=15, unit="s"),
            Promise(name="failed requests", at_most=0),
        ),
        run=flushed,
    ),
    Row(
        number=32,
        fault="Redis restored from an old copy",
        done="one instance made and one deleted since the copy",
        promise="the nodes know better, and an event says what was repaired",
        figures=(
            Promise(name="wrong kills", at_most=0),
            Promise(name="raised from the dead", at_most=0),
            Promise(name="records right", at_most=15, unit="s"),
        ),
        run=restored_from_old,
        runs=3,
    ),
)
