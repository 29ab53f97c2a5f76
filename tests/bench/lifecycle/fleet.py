"""A fleet to measure: two web tiers of one process each, so that each can be asked; one worker."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.settings import ROOT
from tests.bench.errors import BenchError
from tests.bench.lifecycle.watching import Place
from tests.integration.harness import LocalFleet, Process, local_fleet
from workers.run_directory import RunDirectory

NODE = "bench"
_MOST = 21  # instances: twenty, and one more would fit


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """Which program the engines are, and what is asked of them."""

    name: str
    env: Mapping[str, str]  # settings of the worker
    body: Mapping[str, object]  # of POST /instances
    start_s: float  # more than a start takes


def standin() -> Engines:
    """Return the stand-in, which loads in 0.2 s and ends at once."""
    return Engines(
        name="stand-in",
        env={},
        body={"model_name": "org/tiny", "timeout": 0},
        start_s=60.0,
    )


def real() -> Engines:
    """Return real vLLM on this machine's CPU, with a small model.

    Raises:
        BenchError: it is not installed.
    """
    vllm, model = ROOT / ".engines/default/bin/vllm", "SmolLM2-135M-Instruct"
    if not vllm.exists() or not (ROOT / ".models" / model).is_dir():
        raise BenchError("real vLLM or its model is not installed: run `make setup`")
    return Engines(
        name="vLLM",
        env={"VLLM_COMMAND": str(vllm), "STOP_TIMEOUT": "30", "DRAIN_TIMEOUT": "30"},
        body={
            "model_name": model,
            "params": {"max_model_len": 1024, "enforce_eager": True},
            "timeout": 0,
        },
        start_s=300.0,
    )


@dataclass(slots=True)
class MeasuredFleet:
    """A running fleet, and who is asked what."""

    local: LocalFleet
    engines: Engines
    bases: list[str] = field(default_factory=list)  # of each web process

    @property
    def run_dir(self) -> Path:
        """The worker's."""
        return self.local.run_dir(NODE)

    def places(self, instance_id: str) -> list[Place]:
        """Return the instance as each web process has it."""
        model = str(self.engines.body["model_name"])
        return [Place(f"{base}/proxy/{instance_id}", "", model) for base in self.bases]

    def launch(self, instance_id: str) -> dict[str, Any] | None:
        """Return what the instance's engine was started with; None before that."""
        return RunDirectory(self.run_dir / "engines" / instance_id).read("launch")

    def create(self) -> str:
        """Create an instance; return its id once that is accepted."""
        answer = self.local.call("POST", "/instances", json=dict(self.engines.body))
        if answer.status_code != 202:
            raise BenchError(f"POST /instances: {answer.status_code} {answer.text}")
        return str(answer.json()["instance_id"])

    def status(self, instance_id: str) -> str:
        """Return the instance's status."""
        return str(self.local.record(instance_id)["status"])

    def start_worker(self) -> Process:
        """Start the worker and return once it looks after the node."""
        return self.local.start_worker(
            NODE, VLLM_MAX_INSTANCES=str(_MOST), **dict(self.engines.env)
        )


@contextmanager
def measured_fleet(engines: Engines, folder: Path) -> Iterator[MeasuredFleet]:
    """Run a fleet with beat and everything; end it, and its engines."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with local_fleet(folder, IDLE_SWEEP_INTERVAL="60") as local:
            fleet = MeasuredFleet(local, engines)
            for _ in range(2):
                local.start_web(RUN_DIR=str(folder / f"web-{len(fleet.bases)}"))
                fleet.bases.append(local.base)
            local.start_beat()
            local.start_flower()
            fleet.start_worker()
            yield fleet
    finally:
        shutil.rmtree(folder, ignore_errors=True)
