"""Rows 34 to 38, 47: networks that are cut, cut in one direction, slow; callers that leave."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any

import requests

from tests.faults import sight
from tests.faults.ground import Ground, Setup
from tests.faults.row import Figures, Promise, Row
from tests.faults.timing import pause, seconds_until
from tests.faults.traffic import traffic

_WEB_CUT_S = 60.0
_CUT_S = 300.0
_ONE_WAY_S = 60.0
_SLOW_S = 60.0
_IDLE_TIMEOUT_S = 5.0
BAD_NETWORK = Setup(bad_network=True)
NAMESPACE = Setup(namespace=True)


def web_cut(ground: Ground, _: int) -> Figures:
    """Row 34."""
    record = ground.create()
    net, slowest_s = ground.web_net, 0.0
    assert net
    with traffic(ground, record["instance_id"]) as seen:
        net.hold()
        begun = monotonic()
        while monotonic() - begun < _WEB_CUT_S:
            asked = monotonic()
            answer = requests.get(f"{ground.fleet.base}/instances/x", timeout=30)
            slowest_s = max(slowest_s, monotonic() - asked)
            assert answer.status_code == 503, answer.status_code
        net.heal()
        back_s = seconds_until(
            lambda: ground.fleet.call("GET", "/readyz").ok, 30, what="the web is ready"
        )
    return {
        "slowest refusal": slowest_s,
        "failed requests": seen.failed,
        "ready again": back_s,
    }


def worker_cut(ground: Ground, _: int) -> Figures:
    """Row 35."""
    return _cut_off(ground, _CUT_S, one_way=False)


def answers_dropped(ground: Ground, _: int) -> Figures:
    """Row 36."""
    return _cut_off(ground, _ONE_WAY_S, one_way=True)


def _cut_off(ground: Ground, seconds: float, *, one_way: bool) -> Figures:
    record, net = ground.create(), ground.namespace
    instance_id, worker = record["instance_id"], ground.workers["one"]
    assert net
    with traffic(ground, instance_id) as seen:
        if one_way:
            net.drop_answers_of_redis()
        else:
            net.cut_redis()
        lost_s = seconds_until(
            lambda: ground.node_status(instance_id).startswith("lost"), 60, what="seen as lost"
        )
        pause(seconds - lost_s)
        assert sight.start_time(record["pid"]), "the engine was killed"
        net.heal()
        back_s = seconds_until(
            lambda: not ground.node_status(instance_id).startswith("lost"), 60, what="seen as back"
        )
    assert worker.popen.poll() is None, "the worker ended"
    other = ground.create()
    assert other["status"] == "running"
    return {
        "engine restarts": ground.spawns(instance_id) - 1,
        "failed requests": seen.failed,
        "seen as back": back_s,
    }


def engine_cut_in_a_stream(ground: Ground, _: int) -> Figures:
    """Row 37."""
    instance_id, net = ground.create(token_gap=0.1)["instance_id"], ground.namespace
    assert net
    got: list[bytes] = []
    clean, over_at = True, 0.0

    def read() -> None:
        nonlocal clean, over_at
        try:
            with _stream(ground, instance_id) as answer:
                got.extend(answer.iter_lines(chunk_size=1))
        except requests.RequestException:
            clean = False
        over_at = monotonic()

    caller = threading.Thread(target=read)
    caller.start()
    seconds_until(lambda: len(got) > 4, 20, what="the stream has begun")
    net.cut_everything()
    begun = monotonic()
    caller.join(60)
    net.heal()
    assert not clean, "the stream ended as if it were complete"
    assert b"data: [DONE]" not in got
    pause(1.0)
    return {"cut off, beyond the idle timeout": max(0.0, over_at - begun - _IDLE_TIMEOUT_S)}


def slow(ground: Ground, _: int) -> Figures:
    """Row 38."""
    record = ground.create()
    instance_id, overlays = record["instance_id"], 0
    for net in (ground.worker_net, ground.web_net):
        assert net
        net.latency_s, net.jitter_s = 0.2, 0.1
    begun = monotonic()
    while monotonic() - begun < _SLOW_S:
        overlays += ground.node_status(instance_id).startswith("lost")
        pause(0.5)
    assert ground.record(instance_id)["pid"] == record["pid"]
    for net in (ground.worker_net, ground.web_net):
        assert net
        net.heal()
    return {"overlays": overlays, "engine restarts": ground.spawns(instance_id) - 1}


def caller_leaves(ground: Ground, number: int) -> Figures:
    """Row 47."""
    silent = number % 2 == 1
    delay = {"first_token_delay": 30} if silent else {"token_gap": 0.1}
    instance_id = ground.create(**delay)["instance_id"]
    if silent:
        begun = _leave_in_the_prefill(ground, instance_id)
    else:
        with _stream(ground, instance_id) as answer:
            next(answer.iter_lines(chunk_size=1))
            begun = monotonic()

    def aborted() -> bool:
        seen = ground.fleet.call("GET", f"/proxy/{instance_id}/seen").json()
        return any(one["outcome"] == "aborted" for one in seen)

    seconds_until(aborted, 20, what="the engine hears of it")
    return {"aborted": monotonic() - begun}


def _leave_in_the_prefill(ground: Ground, instance_id: str) -> float:
    try:
        url = f"{ground.fleet.base}/proxy/{instance_id}/v1/completions"
        requests.post(url, json={"model": "org/tiny", "prompt": "x"}, timeout=0.5)
    except requests.ReadTimeout:
        return monotonic()
    raise AssertionError("it was answered")


def _stream(ground: Ground, instance_id: str) -> Any:
    url = f"{ground.fleet.base}/proxy/{instance_id}/v1/completions"
    body = {"model": "org/tiny", "prompt": "x", "max_tokens": 1000, "stream": True}
    return requests.post(url, json=body, stream=True, timeout=60)


ROWS = (
    Row(
        number=34,
        fault="web cut off from Redis",
        done=f"a fault proxy that lets nothing through, {_WEB_CUT_S:g} s",
        promise="control requests 503, requests to engines go on",
        figures=(
            Promise(name="slowest refusal", at_most=2.5, unit="s"),
            Promise(name="failed requests", at_most=0),
            Promise(name="ready again", at_most=10, unit="s"),
        ),
        run=web_cut,
        runs=2,
        setup=BAD_NETWORK,
    ),
    Row(
        number=35,
        fault="node cut off from Redis",
        done=f"network namespace, blackhole route, {_CUT_S:g} s",
        promise="engines run on and serve; shown as lost; heals by itself",
        figures=(
            Promise(name="engine restarts", at_most=0),
            Promise(name="failed requests", at_most=0),
            Promise(name="seen as back", at_most=10, unit="s"),
        ),
        run=worker_cut,
        runs=1,
        setup=NAMESPACE,
    ),
    Row(
        number=36,
        fault="Redis's answers to the node are lost",
        done=f"network namespace, a blackhole for one direction, {_ONE_WAY_S:g} s",
        promise="as row 35: a command that was applied twice does no harm",
        figures=(
            Promise(name="engine restarts", at_most=0),
            Promise(name="failed requests", at_most=0),
            Promise(name="seen as back", at_most=10, unit="s"),
        ),
        run=answers_dropped,
        runs=1,
        setup=NAMESPACE,
    ),
    Row(
        number=37,
        fault="engine cut off in the middle of a stream",
        done="network namespace, cable pulled",
        promise="the caller is cut off within the idle timeout, without a clean end",
        figures=(Promise(name="cut off, beyond the idle timeout", at_most=1, unit="s"),),
        run=engine_cut_in_a_stream,
        runs=3,
        setup=NAMESPACE,
        scaled=f"PROXY_IDLE_TIMEOUT={_IDLE_TIMEOUT_S:g}",
    ),
    Row(
        number=38,
        fault="Redis far away",
        done=f"a fault proxy, 200 to 300 ms each way, for worker and web, {_SLOW_S:g} s",
        promise="nobody is taken for lost",
        figures=(Promise(name="overlays", at_most=0), Promise(name="engine restarts", at_most=0)),
        run=slow,
        excused="I8",  # a control read takes several round trips
        runs=1,
        setup=BAD_NETWORK,
    ),
    Row(
        number=47,
        fault="caller leaves",
        done="in the middle of a stream; in a silent prefill; in turn",
        promise="the engine hears of it",
        figures=(Promise(name="aborted", at_most=1, unit="s"),),
        run=caller_leaves,
        runs=6,
        short=True,
    ),
)
