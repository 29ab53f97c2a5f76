"""Anything in any order, through the HTTP API, against real processes: what must always hold.

`make test` runs a few examples; `make faults` sets FAULT_EXAMPLES.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared import queue
from shared.domain.instance import Status, may_become
from tests.faults import bells, sight
from tests.faults.ground import Ground, Setup, ground
from tests.faults.invariants import STATUSES, leaks
from tests.faults.timing import pause, seconds_until

_EXAMPLES = int(os.environ.get("FAULT_EXAMPLES", "0"))
_MOST = 6  # instances at once; more would only be slower
_CONVERGES_S = 60.0
_OVER = {"stopped", "failed"}
_SETTLED = {*_OVER, "running"}


class Fleet(RuleBasedStateMachine):
    """One example: what was asked of which instance; the fleet itself goes on from the last one."""

    stands: ClassVar[Ground]
    examples: ClassVar[int] = 0
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[str, str] = {}  # instance id -> "run", "stop" or "either": it may expire
        # Which steps come next may hang on nothing but the steps before, so refusals count, too.
        self.made: list[str] = []  # instance ids; "" where the create was refused
        self.deleted: set[int] = set()  # which of them
        Fleet.examples += 1

    @precondition(lambda self: len(self.made) - len(self.deleted) < _MOST)
    @rule(
        delay=st.sampled_from([0.0, 0.1, 0.5]),
        fault=st.sampled_from([{}, {}, {}, {"setsid_child": True}, {"crash_while_loading": True}]),
    )
    def create(self, delay: float, fault: dict[str, Any]) -> None:
        """Make an instance, or be refused because the worker was killed too often to say a word."""
        body = {"model_name": "org/tiny", "params": {"start_delay": delay, **fault}}
        answer = self.stands.fleet.call("POST", "/instances", json=body)
        assert answer.status_code in {202, 503}, answer.text
        self.made.append(answer.json()["instance_id"] if answer.status_code == 202 else "")
        if self.made[-1]:
            self.asked[self.made[-1]] = "run"

    @precondition(lambda self: self.made)
    @rule(which=st.integers(0, 99))
    def delete(self, which: int) -> None:
        """Delete one, deleted or not."""
        self.deleted.add(which % len(self.made))
        if not (instance_id := self._one(which)):
            return
        answer = self.stands.fleet.call("DELETE", f"/instances/{instance_id}")
        assert answer.status_code in {200, 202}, answer.text
        self.asked[instance_id] = "stop"

    @precondition(lambda self: self.made)
    @rule(which=st.integers(0, 99), what=st.sampled_from(["leader", "VLLM::EngineCore", "shim"]))
    def kill_engine(self, which: int, what: str) -> None:
        """Kill a part of an engine, if it is there."""
        instance_id, folder = self._one(which), self.stands.folder
        if what == "leader":
            pids = sight.engines(folder).get(instance_id, [])
        elif what == "shim":
            pids = sight.shims(folder).get(instance_id, [])
        else:
            pids = sight.named(what, sight.trees(folder).get(instance_id, set()))
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @rule()
    def kill_worker(self) -> None:
        """Kill the worker; another one comes up while the next steps are done."""
        self.stands.kill_worker()
        self.stands.start_worker(wait=False)

    @rule(seconds=st.sampled_from([0.1, 0.5]))
    def pause_redis(self, seconds: float) -> None:
        """Freeze Redis for a moment."""
        with self.stands.redis.frozen():
            pause(seconds)

    @rule()
    def lose_doorbells(self) -> None:
        """Throw away what lies in the queue."""
        bells.lose(self.stands)

    @precondition(lambda self: self.made)
    @rule(
        which=st.integers(0, 99), task=st.sampled_from([queue.START_INSTANCE, queue.STOP_INSTANCE])
    )
    def ring_twice(self, which: int, task: str) -> None:
        """Ring for one twice, whatever it is to do."""
        for _ in range(2):
            bells.ring(self.stands, task, self._one(which) or "nothing")

    @precondition(lambda self: self.made)
    @rule(which=st.integers(0, 99))
    def time_passes(self, which: int) -> None:
        """Let the idle time of one be over, as if the clock had moved on; a back-off, too."""
        instance_id, redis = self._one(which), self.stands.redis
        if not instance_id:
            return
        if redis.do("ZADD", "fleet:expiry", "XX", "CH", "1", instance_id):
            self.asked[instance_id] = "either" if self.asked[instance_id] == "run" else "stop"
        if self.stands.status(instance_id) == "backoff":
            redis.do("HSET", f"fleet:instance:{instance_id}", "retry_at", "1")

    @rule(seconds=st.sampled_from([0.05, 0.3]))
    def wait(self, seconds: float) -> None:
        """Do nothing for a moment."""
        pause(seconds)

    @invariant()
    def holds(self) -> None:
        """Check what must hold at every moment."""
        Fleet.steps += 1
        records = {i: self.stands.record(i) for i in self.asked}  # first: what is over stays over
        trees = sight.trees(self.stands.folder)
        for instance_id, pids in sight.engines(self.stands.folder).items():
            assert len(pids) == 1, f"{len(pids)} engines of {instance_id}: {pids}"
        for instance_id, record in records.items():
            left = trees.get(instance_id)
            assert not (record["status"] == "stopped" and left), f"{instance_id} is stopped: {left}"
            self._arrows_are_legal(instance_id)
        held = [r["port"] for r in records.values() if r["status"] not in _OVER and r["port"]]
        assert len(held) == len(set(held)), f"a port is held twice: {held}"

    def teardown(self) -> None:
        """Check what must hold in the end: all have come to where they were asked to."""
        for instance_id, want in self.asked.items():
            self._converges(instance_id, want)
        for instance_id in self.asked:
            self.stands.fleet.call("DELETE", f"/instances/{instance_id}")
        for instance_id in self.asked:
            self._converges(instance_id, "stop")
        seconds_until(
            lambda: not sight.trees(self.stands.folder), _CONVERGES_S, what="nothing is left"
        )
        assert not (shown := leaks(self.stands, self.asked)), shown

    def _converges(self, instance_id: str, want: str) -> None:
        wanted = {"stopped"} if want == "stop" else _SETTLED
        seconds_until(
            lambda: self.stands.status(instance_id) in wanted,
            _CONVERGES_S,
            what=f"{instance_id}, asked to {want}: {self._told(instance_id)}",
        )
        record = self.stands.record(instance_id)
        assert want in {"either", "stop"} or record["status"] != "stopped", (
            f"{instance_id} was asked to run: {self._told(instance_id)}"
        )

    def _arrows_are_legal(self, instance_id: str) -> None:
        shown = [e["status"] for e in self.stands.events(instance_id) if e["status"] in STATUSES]
        for before, after in pairwise(map(Status, shown)):
            assert before == after or after in may_become(before), self._told(instance_id)

    def _one(self, which: int) -> str:
        return self.made[which % len(self.made)]

    def _told(self, instance_id: str) -> list[Any]:
        return [(e["by"], e["status"], e["reason"]) for e in self.stands.events(instance_id)]


@pytest.fixture(scope="module")
def stands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    # Back-offs of a tenth of a second: an example is short.
    env = (("RESTART_BACKOFF", "0.1"), ("RESTART_BACKOFF_MAX", "1"), ("STOP_TIMEOUT", "2"))
    with ground(Path(tmp_path_factory.mktemp("steps")), Setup(env=env, web_processes=1)) as stands:
        yield stands


@pytest.mark.timeout(0 if _EXAMPLES else 120)
def test_whatever_comes_in_whatever_order(stands: Ground) -> None:
    Fleet.stands = stands
    run_state_machine_as_test(
        Fleet,
        settings=settings(
            max_examples=_EXAMPLES or 3,
            stateful_step_count=50 if _EXAMPLES else 15,
            derandomize=not _EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # real processes: to shrink would take hours
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"state machine: {Fleet.examples} examples, {Fleet.steps} steps")  # noqa: T201
