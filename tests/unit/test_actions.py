"""What a supervisor does about one instance, on a store in memory; no engine is spawned."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.domain.backoff import RestartRule
from shared.domain.instance import Exit, Instance, Status
from shared.domain.reconcile import Action, Observation, Patience, Remains
from shared.policy import policy
from shared.store.memory import MemoryStore
from tests.builders import a_node, an_instance, settings
from tests.demo.waiting import until
from workers import process_tree
from workers.actions import Actions
from workers.engine import Engine
from workers.expectation import Expectation
from workers.loading import Loading
from workers.prober import Prober
from workers.run_directory import RunDirectory

ALIVE = Observation(remains=Remains.ALIVE)
GONE = Observation(remains=Remains.GONE)


class Bench:
    """One node with one instance, of which no engine runs."""

    def __init__(self, folder: Path, prober: Prober) -> None:
        (folder / "engine.env").touch()
        env = {"NODE_NAME": "one", "RUN_DIR": str(folder), "PATH": "/usr/bin"}
        own = settings(**env, ENGINE_ENV_FILE=str(folder / "engine.env"))
        self.store = MemoryStore()
        self.actions = Actions(
            settings=own,
            store=self.store,
            epoch=self.store.announce(a_node(), "test"),
            patience=Patience(start_stall=600.0, drain=30.0, stop=20.0),
            expectation=Expectation(self.store, ()),
            policy=policy(own),
            restarts=RestartRule(
                backoff=10.0,
                backoff_max=300.0,
                reset_after=600.0,
                max_failed_starts=5,
                max_per_hour=10,
            ),
        )
        self.run = RunDirectory(folder / "engines" / an_instance().instance_id)
        self.run.make()
        self.engine = Engine(self.run.path.name, self.run, prober)

    def apply(self, action: Action, seen: Observation, **record: Any) -> Instance:
        """Return the record after this action upon it."""
        self.store.create(an_instance(**record), 1)
        made = self.store.get(an_instance().instance_id)
        assert made
        self.actions.apply(action, replace(made, **record), self.engine, seen)
        found = self.store.get(made.instance_id)
        assert found
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Prober(lambda: None) as prober:
        yield Bench(tmp_path, prober)


@pytest.mark.parametrize("status", [Status.UNHEALTHY, Status.STARTING])
def test_what_was_not_seen_from_its_beginning_says_nothing_of_how_long_starts_take(
    bench: Bench, status: Status
) -> None:
    init = process_tree.identity(1)
    assert init
    alive = {"boot_id": process_tree.boot_id(), "pid": 1, "start_time": init.start_time}
    bench.run.write("state", {"run": 0, **alive})
    record = bench.apply(Action.MARK_RUNNING, ALIVE, status=status)
    assert record.status is Status.RUNNING
    again = replace(record, status=Status.STARTING, started_at=1.0)
    assert bench.actions.expectation.ready_at(again, Loading(), 0.0) is None


def test_a_start_that_cannot_be_spawned_was_never_ready_whatever_the_run_before_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    long_ago: Any = {"ready_at": 1.0, "failed_starts": 2, "backoff_step": 2, "run": 3}
    record = bench.apply(Action.SPAWN, GONE, status=Status.BACKOFF, **long_ago)
    assert (record.status, record.cause) == (Status.BACKOFF, "not_spawned")
    assert (record.failed_starts, record.backoff_step) == (3, 3)


def test_a_shim_that_could_not_write_down_how_it_ended_was_not_killed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    bench.engine.spawn({"run": 1, "command": ["none"], "env": {}})
    assert until(lambda: bench.engine.processes.shim_ended_well, 5)
    record = bench.apply(Action.MARK_CRASHED, GONE, status=Status.RUNNING, run=1)
    assert (record.status, record.cause) == (Status.BACKOFF, "disk_full")


# starts on one GPU


def beside(**changes: Any) -> Instance:
    """Return another instance of the node, on the GPU of ours."""
    return an_instance(instance_id="other", gpus=("GPU-0", "GPU-1"), **changes)


def test_a_start_waits_for_another_on_its_gpu(bench: Bench) -> None:
    bench.actions.node_records = [beside(status=Status.STARTING)]
    record = bench.apply(Action.SPAWN, GONE, gpus=("GPU-0",))
    assert (record.status, record.reason) == (
        Status.PENDING,
        "waits for other: engines of one GPU start one after another",
    )


def test_a_start_waits_for_one_that_was_spawned_in_the_same_look(bench: Bench) -> None:
    bench.actions.node_records = [beside()]
    bench.actions.spawned.add("other")
    assert bench.apply(Action.SPAWN, GONE, gpus=("GPU-0",)).status is Status.PENDING


@pytest.mark.parametrize(
    "others",
    [
        [beside()],
        [beside(status=Status.RUNNING)],
        [replace(beside(status=Status.STARTING), gpus=("GPU-1",))],
        [an_instance(status=Status.STARTING, gpus=("GPU-0",))],
    ],
    ids=["waits itself", "runs", "on another GPU", "itself"],
)
def test_a_start_waits_for_nobody_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, others: list[Instance]
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    bench.actions.node_records = others
    record = bench.apply(Action.SPAWN, GONE, gpus=("GPU-0",))
    assert (record.status, record.cause) == (Status.BACKOFF, "not_spawned"), "it was tried"
    assert record.instance_id in bench.actions.spawned


def test_a_reboot_that_took_the_run_directory_along_is_told_by_the_record(bench: Bench) -> None:
    ran = {"status": Status.RUNNING, "pid": 7, "start_time": 7, "boot_id": "another", "run": 1}
    assert bench.apply(Action.MARK_CRASHED, GONE, **ran).cause == "node_rebooted"


@pytest.mark.parametrize(
    ("before", "meanwhile"),
    [(Status.RUNNING, Status.UNHEALTHY), (Status.STARTING, Status.STARTING)],
)
def test_what_is_given_up_says_so_while_its_shim_clears_up(
    bench: Bench, before: Status, meanwhile: Status
) -> None:
    ended = Exit(code=7, signal=None, at=1.0)
    crashed: Any = {"run": 1, "port": 8000, "crashes": (bench.store.now(),) * 9}
    ending = Observation(remains=Remains.ENDING, exit=ended)
    dead = bench.apply(Action.MARK_CRASHED, ending, status=before, **crashed)
    assert (dead.status, dead.port, dead.ended_at) == (meanwhile, 8000, None)
    assert "exited with status 7" in dead.reason
    assert "10 crashes within an hour" in dead.reason
    bench.actions.apply(
        Action.MARK_CRASHED, dead, bench.engine, replace(ending, remains=GONE.remains)
    )
    failed = bench.store.get(dead.instance_id)
    assert failed
    assert (failed.status, failed.reason, failed.port) == (Status.FAILED, dead.reason, None)
