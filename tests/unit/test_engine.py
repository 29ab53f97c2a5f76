"""One engine as its node sees it, where no engine was ever spawned: what is left, what is told."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from time import time

import pytest

from shared.domain.instance import Instance, Status
from shared.domain.reconcile import Action, Patience, Remains, plan
from workers import engine_processes, gpus
from workers.engine import Engine
from workers.prober import Prober
from workers.run_directory import RunDirectory

PATIENCE = Patience(start_stall=600.0, drain=30.0, stop=20.0)
LAUNCH: dict[str, object] = {"run": 1, "command": ["none"], "env": {}, "names": ["m"]}


@pytest.fixture
def prober() -> Iterator[Prober]:
    with Prober(lambda: None) as prober:
        yield prober


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "tiny-aaaa2222")
    run.make()
    return run


@pytest.fixture
def engine(run: RunDirectory, prober: Prober) -> Engine:
    return Engine(run.path.name, run, prober)


def a_record(status: Status, **fields: object) -> Instance:
    known: dict[str, object] = {"run": 1, "host": "127.0.0.1", "gpus": ("GPU-a",)} | fields
    return Instance(
        instance_id="tiny-aaaa2222",
        model_name="m",
        params={},
        timeout=0,
        node="one",
        status=status,
        **known,  # type: ignore[arg-type]
    )


def test_a_port_that_a_stranger_has_does_not_say_that_the_gpus_are_free(
    run: RunDirectory, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_processes, "_PORT_CLOSES_S", 0.0)
    held = ["3072 MiB of GPU-a is held by pid 7 (ended)"]
    monkeypatch.setattr(gpus, "why_not_released", lambda _: held[0])
    run.write("launch", LAUNCH)
    run.write("exit", {"run": 1, "code": 0, "signal": None, "at": time()})
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        record = a_record(Status.STOPPING, port=stranger.getsockname()[1])
        assert engine.observe(record, PATIENCE).remains is Remains.LEFTOVERS
        held[0] = ""
        assert engine.observe(record, PATIENCE).remains is Remains.GONE


def test_an_engine_whose_shim_could_not_be_spawned_is_not_being_born(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(FileNotFoundError):
        engine.spawn(LAUNCH)
    seen = engine.observe(a_record(Status.BACKOFF), PATIENCE)
    assert plan(a_record(Status.BACKOFF), seen, 0.0, PATIENCE) is Action.WAIT
