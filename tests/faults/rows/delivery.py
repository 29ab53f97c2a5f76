"""Rows 23 to 25, 41, 62, 63: doorbells lost and doubled, beats none and two, requests repeated."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic
from uuid import uuid4

import requests

from shared import queue
from tests.faults import bells, sight
from tests.faults.ground import Ground, Setup
from tests.faults.row import Figures, Promise, Row
from tests.faults.timing import pause, seconds_until

_BRPOP_S = 1.5  # a frozen worker's BRPOP is over: what comes now lies in the queue
_SWEPT = 10  # deletes at once, each at a point of its own
_PARALLEL = 50
_MADE = {200, 201, 202}


def lost(ground: Ground, _: int) -> Figures:
    """Row 23."""
    with _frozen_worker(ground):
        instance_id = ground.post()
        assert bells.waiting(ground), "no doorbell lay in the queue"
        bells.lose(ground)
    took_s = seconds_until(
        lambda: ground.status(instance_id) != "pending", 20, what="it is started without a bell"
    )
    ground.becomes(instance_id, "running")
    return {"started": took_s}


def doubled(ground: Ground, _: int) -> Figures:
    """Row 24."""
    instance_id = ground.post(start_delay=0.5)
    for _ in range(10):
        bells.ring(ground, queue.START_INSTANCE, instance_id)
    ground.becomes(instance_id, "running")
    ground.fleet.call("DELETE", f"/instances/{instance_id}")
    for _ in range(10):
        bells.ring(ground, queue.STOP_INSTANCE, instance_id)
        bells.ring(ground, queue.START_INSTANCE, instance_id)
    ground.becomes(instance_id, "stopped")
    bells.answered_s(ground, 20)  # all bells before it were answered
    pause(0.5)
    assert ground.status(instance_id) == "stopped"
    ends = sum(event["status"] == "stopped" for event in ground.events(instance_id))
    return {"starts": ground.spawns(instance_id), "stops": ends}


def redelivered(ground: Ground, _: int) -> Figures:
    """Row 25."""
    with _frozen_worker(ground):
        instance_id = ground.post(start_delay=1)
        [message] = bells.waiting(ground)
        bells.deliver_again(ground, message)
    ground.becomes(instance_id, "starting")
    bells.deliver_again(ground, message)  # in the middle of its work
    ground.becomes(instance_id, "running")
    bells.deliver_again(ground, message)  # and after it
    bells.answered_s(ground, 20)
    pause(0.5)
    assert len(sight.engines(ground.folder)[instance_id]) == 1
    return {"starts": ground.spawns(instance_id)}


def no_beat_and_two(ground: Ground, number: int) -> Figures:
    """Row 41."""
    none = number % 2 == 0
    # Of a beat that was never heard of nobody can say that it has fallen silent.
    seconds_until(lambda: ground.redis.do("EXISTS", "fleet:swept-at"), 20, what="a first sweep")
    for beat in ground.beats if none else []:
        beat.end(signal.SIGKILL)
    begun = monotonic()
    instance_id = ground.create(timeout=2)["instance_id"]
    ground.becomes(instance_id, "stopped")
    took_s = monotonic() - begun
    asked = [e for e in ground.events(instance_id) if e["status"] == "desired=stopped"]
    assert len(asked) == 1, f"asked to stop {len(asked)} times"
    assert asked[0]["by"] == "idle"
    assert ground.record(instance_id)["generation"] == 2
    said_s = seconds_until(lambda: _says_beat_is_silent(ground) is none, 20, what="it is said")
    return {"stops": len(asked), "beyond its timeout": took_s - 2, "said": said_s}


def _says_beat_is_silent(ground: Ground) -> bool:
    return "silent" in ground.fleet.call("GET", "/readyz").json().get("beat", "")


def repeated(ground: Ground, _: int) -> Figures:
    """Row 62."""
    key = str(uuid4())
    body = {"model_name": "org/tiny", "timeout": 600}
    other = {"model_name": "org/other", "timeout": 600}

    def ask(number: int) -> tuple[bool, int, str]:
        mixed = number % 5 == 4
        answer = requests.post(
            f"{ground.fleet.base}/instances",
            json=other if mixed else body,
            headers={"Idempotency-Key": key},
            timeout=60,
        )
        return mixed, answer.status_code, str(answer.json().get("instance_id"))

    first = ask(0)
    with ThreadPoolExecutor(_PARALLEL) as pool:
        answers = [first, *pool.map(ask, range(_PARALLEL))]
    made = {instance_id for mixed, _, instance_id in answers if not mixed}
    odd = Counter(status for mixed, status, _ in answers if mixed)
    assert odd.keys() == {422}, f"another body under the same key: {dict(odd)}"
    same = Counter(status for mixed, status, _ in answers if not mixed)
    assert same.keys() <= _MADE, dict(same)
    # And at once, with no first: all fifty race, and either body may win.
    key = str(uuid4())
    with ThreadPoolExecutor(_PARALLEL) as pool:
        raced = list(pool.map(ask, range(_PARALLEL)))
    won = {mixed for mixed, status, _ in raced if status in _MADE}
    assert len(won) == 1, f"answers to both bodies: {Counter(s for _, s, _ in raced)}"
    assert {status for mixed, status, _ in raced if mixed in won} <= _MADE, raced
    assert {status for mixed, status, _ in raced if mixed not in won} == {422}, raced
    made_racing = {instance_id for mixed, _, instance_id in raced if mixed in won}
    return {"instances": max(len(made), len(made_racing))}


def deleted_at_every_point(ground: Ground, number: int) -> Figures:
    """Row 63."""

    def make_and_delete(offset_s: float) -> str:
        with requests.Session() as caller:
            made = caller.post(
                f"{ground.fleet.base}/instances",
                json={"model_name": "org/tiny", "params": {"start_delay": 0.5}},
                timeout=60,
            ).json()["instance_id"]
            pause(offset_s)
            gone = caller.delete(
                f"{ground.fleet.base}/instances/{made}", params={"wait": "60"}, timeout=90
            )
            assert gone.json().get("status") == "deleted", gone.text
            return str(made)

    offsets = [(number + 10 * i) * 0.02 for i in range(_SWEPT)]
    with ThreadPoolExecutor(_SWEPT) as pool:
        ids = list(pool.map(make_and_delete, offsets))
    left = sight.trees(ground.folder)
    return {
        "processes left": sum(len(pids) for pids in left.values()),
        "not stopped": sum(ground.status(i) != "stopped" for i in ids),
    }


@contextmanager
def _frozen_worker(ground: Ground) -> Iterator[None]:
    worker = ground.workers["one"].popen.pid
    os.kill(worker, signal.SIGSTOP)
    try:
        pause(_BRPOP_S)
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


ROWS = (
    Row(
        number=23,
        fault="doorbell lost",
        done="the queue deleted before the worker could read it",
        promise="found at the next look",
        figures=(Promise(name="started", at_most=10, unit="s"),),
        run=lost,
        runs=5,
    ),
    Row(
        number=24,
        fault="doorbells doubled and out of order",
        done="10 copies of start; after the DELETE 10 of stop and start by turns",
        promise="one effect; what was asked last holds",
        figures=(Promise(name="starts", at_most=1), Promise(name="stops", at_most=1)),
        run=doubled,
        short=True,
    ),
    Row(
        number=25,
        fault="task delivered again",
        done="its message restored as kombu does: before, in the middle of and after its work",
        promise="one start",
        figures=(Promise(name="starts", at_most=1),),
        run=redelivered,
    ),
    Row(
        number=41,
        fault="no beat, two beats",
        done="beats killed; two beats; in turn",
        promise="what is idle is stopped once all the same; /readyz says that beat is silent",
        figures=(
            Promise(name="stops", at_most=1),
            Promise(name="beyond its timeout", at_most=15, unit="s"),
            Promise(name="said", at_most=10, unit="s"),
        ),
        run=no_beat_and_two,
        runs=4,
        setup=Setup(beats=2),
    ),
    Row(
        number=62,
        fault="a create repeated",
        done=f"{_PARALLEL} POSTs at once with one Idempotency-Key, every fifth with another body",
        promise="one instance; 422 for the other body",
        figures=(Promise(name="instances", at_most=1),),
        run=repeated,
        runs=3,
    ),
    Row(
        number=63,
        fault="deleted at every point of a create",
        done=f"{_SWEPT} at once, 0 to 2 s after the POST; 100 points in all",
        promise="stopped, nothing left",
        figures=(Promise(name="processes left", at_most=0), Promise(name="not stopped", at_most=0)),
        run=deleted_at_every_point,
        runs=10,
    ),
)
