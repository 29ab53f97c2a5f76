"""Rows 9 to 19: engines that die, do not die, do not start, hang."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from time import monotonic

import requests

from tests.faults import sight
from tests.faults.ground import Ground, Setup, pretend_gpus
from tests.faults.row import Figures, Promise, Row
from tests.faults.timing import pause, seconds_until

_STOP_TIMEOUT_S = 3.0  # what the fleets of tests are told
_HANG_GRACE_S = 5.0
_BACKOFF_S = 1.0
_STALL_S = 2.0
_SATURATED_S = 60.0
_RESET_S = 3.0


def leader_killed(ground: Ground, _: int) -> Figures:
    """Row 9."""
    begun = monotonic()
    record = ground.create()
    load_s = monotonic() - begun
    instance_id = record["instance_id"]
    old = sight.trees(ground.folder)[instance_id]
    begun = monotonic()
    os.kill(record["pid"], signal.SIGKILL)
    seen_s = ground.becomes(instance_id, "backoff", within_s=5)
    waits_s = ground.record(instance_id)["retry_at"] - float(ground.redis.do("TIME")[0])
    left = old

    def started_again() -> bool:
        nonlocal left
        left = {pid for pid in old if sight.start_time(pid)}
        return ground.status(instance_id) == "starting"

    seconds_until(started_again, 20, what="it is started again")
    assert not left, f"pids {left} of the old tree lived when the new one began"
    ground.becomes(instance_id, "running")
    took_s = monotonic() - begun
    assert ground.record(instance_id)["restarts"] == 1
    assert waits_s < 2 * _BACKOFF_S + 1
    return {
        "backoff in the record": seen_s,
        "running again, beyond back-off and load": max(0.0, took_s - 1.5 * _BACKOFF_S - load_s),
    }


def core_killed(ground: Ground, _: int) -> Figures:
    """Row 10."""
    instance_id = ground.create()["instance_id"]
    [core] = sight.named("VLLM::EngineCore", sight.trees(ground.folder)[instance_id])
    begun = monotonic()
    os.kill(core, signal.SIGKILL)
    seconds_until(lambda: ground.status(instance_id) != "running", 20, what="it is noticed")
    noticed_s = monotonic() - begun
    ground.becomes(instance_id, "running")
    return {"noticed": noticed_s}


def deaf_to_sigterm(ground: Ground, _: int) -> Figures:
    """Row 11."""
    instance_id = ground.create(ignore_sigterm=True)["instance_id"]
    begun = monotonic()
    ground.delete(instance_id)
    took_s = monotonic() - begun
    assert took_s >= _STOP_TIMEOUT_S, f"killed after {took_s:.2f} s, before the deadline"
    return {"over the deadline": took_s - _STOP_TIMEOUT_S}


def escaped_child(ground: Ground, _: int) -> Figures:
    """Row 12."""
    instance_id = ground.create(setsid_child=True)["instance_id"]
    escaped = sight.named("VLLM::Escapee", sight.trees(ground.folder)[instance_id])
    assert escaped, "the stand-in has no such child"
    ground.delete(instance_id)
    return {"survivors": sum(sight.start_time(pid) is not None for pid in escaped)}


def unkillable(ground: Ground, _: int) -> Figures:
    """Row 13."""
    record = ground.create(tensor_parallel_size=1)
    instance_id, gpus = record["instance_id"], record["gpus"]
    assert gpus, record
    dead = _dead_pid()
    pretend_gpus(ground.folder, ground.setup.gpus, {gpus[0]: [dead]})
    try:
        ground.fleet.call("DELETE", f"/instances/{instance_id}")
        ground.becomes(instance_id, "stop_failed", within_s=40)
        reason = ground.record(instance_id)["reason"]
        assert str(dead) in reason, f"does not say which pid: {reason}"
        taken = [ground.create()["gpus"] for _ in range(ground.setup.gpus - 1)]
        full = ground.fleet.call("POST", "/instances", json={"model_name": "org/tiny"})
        assert full.status_code == 503, f"{full.status_code}: {full.text}"
    finally:
        pretend_gpus(ground.folder, ground.setup.gpus)
    ground.delete(instance_id)
    return {"reused": sum(gpus[0] in others for others in taken)}


def crash_while_loading(ground: Ground, _: int) -> Figures:
    """Row 14."""
    instance_id = ground.post(crash_while_loading=True)
    ground.becomes(instance_id, "failed", within_s=90)
    record, events = ground.record(instance_id), ground.events(instance_id)
    waits = [
        float(after["at"]) - float(before["at"])
        for before, after in pairwise(events)
        if (before["status"], after["status"]) == ("backoff", "starting")
    ]
    assert len(waits) == 4, f"{len(waits)} restarts, not 4: five crashes that were never ready"
    assert record["last_log"], "no last words"
    # The schedule, with its jitter: 1, 2, 4, 8 s.
    errors = [abs(wait - 2**n * _BACKOFF_S) / (2**n * _BACKOFF_S) for n, wait in enumerate(waits)]
    return {"off the schedule": 100 * max(errors)}


def bad_flag(ground: Ground, _: int) -> Figures:
    """Row 15."""
    record = ground.create(no_such_flag="1")
    assert record["status"] == "failed", record["status"]
    assert record["cause"] == "bad_flag", record["cause"]
    assert any("no-such-flag" in line for line in record["last_log"]), record["last_log"]
    pause(2.5 * _BACKOFF_S)
    assert ground.status(record["instance_id"]) == "failed"
    return {"restarts": ground.spawns(record["instance_id"]) - 1}


def crash_after_long(ground: Ground, _: int) -> Figures:
    """Row 16."""
    instance_id = ground.create(crash_after=_RESET_S + 1.5)["instance_id"]
    waits = []
    for _ in range(3):
        ground.becomes(instance_id, "backoff", within_s=30)
        record = ground.record(instance_id)
        waits.append(record["retry_at"] - float(ground.events(instance_id)[-1]["at"]))
        ground.becomes(instance_id, "running", within_s=30)
    return {"longest back-off": max(waits)}


def hang(ground: Ground, _: int) -> Figures:
    """Row 17."""
    instance_id = ground.create(hang=True)["instance_id"]
    begun = monotonic()
    with _asking(ground, instance_id, tokens=10):
        ground.becomes(instance_id, "unhealthy", "backoff", within_s=_HANG_GRACE_S + 20)
        noticed_s = monotonic() - begun
        assert noticed_s >= _HANG_GRACE_S, f"after {noticed_s:.2f} s, before the grace was over"
        shown = [event["status"] for event in ground.events(instance_id)]
        assert "unhealthy" in shown, shown
        seconds_until(lambda: ground.spawns(instance_id) == 2, 30, what="it is restarted")
    ground.becomes(instance_id, "running")
    return {"off the grace period": abs(noticed_s - _HANG_GRACE_S)}


def saturated(ground: Ground, _: int) -> Figures:
    """Row 18."""
    record = ground.create(slow_health=5, token_gap=0.5)
    instance_id = record["instance_id"]
    with _asking(ground, instance_id, tokens=500) as lines:
        pause(_SATURATED_S)
        assert len(lines) > _SATURATED_S, f"no stream ran in it: {len(lines)} lines came"
        shown = [event["status"] for event in ground.events(instance_id)]
        assert "unhealthy" not in shown, shown
    assert ground.record(instance_id)["pid"] == record["pid"]
    return {"restarts": ground.spawns(instance_id) - 1}


def never_listens(ground: Ground, _: int) -> Figures:
    """Row 19."""
    begun = monotonic()
    instance_id = ground.post(never_listen=True, start_delay=0)
    old: set[int] = set()

    def given_up() -> bool:
        old.update(sight.trees(ground.folder).get(instance_id, set()))
        return ground.status(instance_id) in {"backoff", "failed"}

    seconds_until(given_up, 30, what="the start is given up")
    took_s = monotonic() - begun
    alive = [pid for pid in old if sight.start_time(pid)]
    assert not alive, f"pids {alive} of it live"
    assert took_s >= _STALL_S, f"given up after {took_s:.2f} s"
    assert ground.record(instance_id)["cause"] == "start_stalled"
    return {"over the deadline": took_s - _STALL_S}


@contextmanager
def _asking(ground: Ground, instance_id: str, *, tokens: int) -> Iterator[list[bytes]]:
    """Have a caller wait for a completion; give the lines that come."""
    session = requests.Session()
    body = {"model": "org/tiny", "prompt": "x", "max_tokens": tokens, "stream": True}
    url = f"{ground.fleet.base}/proxy/{instance_id}/v1/completions"

    def ask() -> None:
        with (
            suppress(requests.RequestException),
            session.post(url, json=body, stream=True, timeout=90) as answer,
        ):
            for line in answer.iter_lines(chunk_size=1):
                lines.append(line)
                if over.is_set():
                    return

    over, lines = threading.Event(), list[bytes]()
    caller = threading.Thread(target=ask, daemon=True)
    caller.start()
    try:
        yield lines
    finally:
        over.set()


def _dead_pid() -> int:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    return pid


ROWS = (
    Row(
        number=9,
        fault="engine's first process killed",
        done="kill -9",
        promise="nothing of it lives when it is started again",
        figures=(
            Promise(name="backoff in the record", at_most=0.5, unit="s"),
            Promise(name="running again, beyond back-off and load", at_most=1, unit="s"),
        ),
        run=leader_killed,
        short=True,
        scaled="RESTART_BACKOFF=1",
    ),
    Row(
        number=10,
        fault="EngineCore killed",
        done="kill -9 of the child",
        promise="noticed; started again",
        figures=(Promise(name="noticed", at_most=10, unit="s"),),
        run=core_killed,
        short=True,
    ),
    Row(
        number=11,
        fault="engine deaf to SIGTERM",
        done="--ignore-sigterm, DELETE",
        promise="killed at the deadline",
        figures=(Promise(name="over the deadline", at_most=2, unit="s"),),
        run=deaf_to_sigterm,
        scaled="STOP_TIMEOUT=3",
    ),
    Row(
        number=12,
        fault="a child in a session of its own",
        done="--setsid-child, deaf to SIGTERM; DELETE",
        promise="found and killed",
        figures=(Promise(name="survivors", at_most=0),),
        run=escaped_child,
    ),
    Row(
        number=13,
        fault="GPU memory that is not freed",
        done="the driver lists a dead pid on the GPU after the stop",
        promise="stop_failed, naming the pid; the GPU is given to nobody; a later DELETE ends it",
        figures=(Promise(name="reused", at_most=0),),
        run=unkillable,
        runs=2,
        setup=Setup(gpus=2),
    ),
    Row(
        number=14,
        fault="crash while loading, every time",
        done="--crash-while-loading",
        promise="waits 1, 2, 4, 8 (as shipped: 10, 20, 40, 80 s), then failed: 5 never ready",
        figures=(Promise(name="off the schedule", at_most=20, unit="%"),),
        run=crash_while_loading,
        runs=3,
        scaled="RESTART_BACKOFF=1",
    ),
    Row(
        number=15,
        fault="a flag that vLLM does not know",
        done="the engine exits with status 2",
        promise="failed at once, cause bad_flag with the last words; no restart",
        figures=(Promise(name="restarts", at_most=0),),
        run=bad_flag,
    ),
    Row(
        number=16,
        fault="crash after a long good run",
        done="--crash-after beyond RESTART_RESET_AFTER, three times",
        promise="the back-off begins anew",
        figures=(Promise(name="longest back-off", at_most=1.3 * _BACKOFF_S, unit="s"),),
        run=crash_after_long,
        runs=2,
        setup=Setup(env=(("RESTART_RESET_AFTER", f"{_RESET_S:g}"),)),
        scaled=f"RESTART_BACKOFF=1, RESTART_RESET_AFTER={_RESET_S:g}",
    ),
    Row(
        number=17,
        fault="engine hangs",
        done="/health answers 200, a request runs, no token comes",
        promise="unhealthy after the grace period, then restarted",
        figures=(Promise(name="off the grace period", at_most=10, unit="s"),),
        run=hang,
        runs=3,
        scaled=f"HANG_GRACE={_HANG_GRACE_S:g}",
    ),
    Row(
        number=18,
        fault="engine saturated",
        done=f"/health takes 5 s, tokens go on coming; {_SATURATED_S:g} s",
        promise="left alone",
        figures=(Promise(name="restarts", at_most=0),),
        run=saturated,
        runs=1,
        scaled=f"HANG_GRACE={_HANG_GRACE_S:g}, and the 10 min are {_SATURATED_S:g} s",
    ),
    Row(
        number=19,
        fault="start without progress",
        done="--never-listen",
        promise="given up at the deadline, nothing of it left",
        figures=(Promise(name="over the deadline", at_most=2, unit="s"),),
        run=never_listens,
        runs=3,
        setup=Setup(env=(("START_STALL_TIMEOUT", f"{_STALL_S:g}"),)),
        scaled=f"START_STALL_TIMEOUT={_STALL_S:g}",
    ),
)
