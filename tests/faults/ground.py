"""The fleet a row is run on: Redis, web tier, workers and beat, all killable, made well again.

A row says with `Setup` what it needs; rows with the same needs share one ground, one after the
other. After each row `heal` must make it well, or it is thrown away.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import requests

from tests.faults import sight
from tests.faults.fault_proxy import FaultProxy
from tests.faults.namespace import Namespace
from tests.faults.redis_process import RedisProcess
from tests.faults.timing import pause, seconds_until
from tests.integration.harness import WAIT, LocalFleet, Process, processes_of

START_S = 40.0
# Planted in every process that may know secrets; must be seen on no surface.
CANARY = "hf_CANARYcanaryCANARYcanary0123456789"
# As shipped these are minutes; rows say so where they count with them.
SCALED = {
    "RESTART_BACKOFF": "1",
    "RESTART_BACKOFF_MAX": "16",
    "HANG_GRACE": "5",
    "PROXY_IDLE_TIMEOUT": "5",
    "HF_TOKEN": CANARY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a row needs to stand on."""

    env: tuple[tuple[str, str], ...] = ()  # settings of every process, besides SCALED
    nodes: tuple[str, ...] = ("one",)
    beats: int = 0
    web_processes: int = 2
    bad_network: bool = False  # worker and web reach Redis through a fault proxy each
    namespace: bool = False  # the node is a network namespace of its own: needs root
    small_disk_mib: int = 0  # of Redis's data and of run directories; 0: as large as they are
    redis_apart: bool = False  # Redis's data is not on the small disk
    gpus: int = 0  # how many the driver of each node pretends to have


@dataclass(slots=True)
class Ground:
    """A running fleet."""

    setup: Setup
    fleet: LocalFleet
    redis: RedisProcess
    namespace: Namespace | None = None
    workers: dict[str, Process] = field(default_factory=dict)
    beats: list[Process] = field(default_factory=list)
    web: Process | None = None
    worker_net: FaultProxy | None = None
    web_net: FaultProxy | None = None

    @property
    def folder(self) -> Path:
        """Where everything of it lies."""
        return self.fleet.folder

    @property
    def stalled(self) -> bool:
        """Whether Redis says nothing to the web tier now: reads may take as long as refusals."""
        net = self.web_net
        slow = net is not None and (net.holds_asked or net.holds_answered or net.latency_s > 0)
        return self.redis.is_frozen or slow

    # processes

    def start(self) -> None:
        """Start everything."""
        for node in self.setup.nodes:
            self.start_worker(node)
        self.start_web()
        for _ in range(self.setup.beats):
            self.beats.append(self.fleet.start_beat())

    def start_web(self, **env: str) -> None:
        """Start the web tier."""
        net = {"REDIS_URL": self.web_net.url} if self.web_net else {}
        self.web = self.fleet.start_web(
            WEB_PROCESSES=str(self.setup.web_processes),
            RUN_DIR=str(self.folder / "web"),
            **{**net, **env},
        )

    def start_worker(
        self, node: str = "one", *, wait: bool = True, env: Mapping[str, str] | None = None
    ) -> Process:
        """Start the worker of a node, and wait until it has announced itself."""
        before = self.epoch(node)
        settings = {
            "NODE_NAME": node,
            "RUN_DIR": str(self.fleet.run_dir(node)),
            "VLLM_BASE_PORT": str(self.fleet.base_port(node)),
            **({"REDIS_URL": self.worker_net.url} if self.worker_net else {}),
            **(self.namespace.settings(self.redis.port) if self.namespace else {}),
            **(_driver(self.folder) if self.setup.gpus else {}),
            **(env or {}),
        }
        inside = self.namespace.enter if self.namespace else ()
        command = [*inside, sys.executable, "-m", "workers"]
        worker = self.workers[node] = self.fleet.start(node, command, settings)
        if wait:
            seconds_until(
                lambda: self.epoch(node) > before, START_S, what=f"worker {node} announces itself"
            )
        return worker

    def kill_worker(self, node: str = "one") -> None:
        """End a worker as a crash does."""
        self.workers[node].end(signal.SIGKILL)

    def epoch(self, node: str = "one") -> int:
        """Return how often the node was announced."""
        return int(self.redis.do("HGET", f"fleet:node:{node}", "epoch") or 0)

    # instances

    def create(self, *, timeout: int = 600, **params: object) -> Any:
        """Create an instance; return its record once it has settled."""
        body = {"model_name": "org/tiny", "params": params, "timeout": timeout}
        answer = self.fleet.call("POST", "/instances", json=body, params=WAIT)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def post(self, *, timeout: int = 600, **params: object) -> str:
        """Create an instance; return its id at once."""
        body = {"model_name": "org/tiny", "params": params, "timeout": timeout}
        answer = self.fleet.call("POST", "/instances", json=body)
        assert answer.status_code in {201, 202}, answer.text
        return str(answer.json()["instance_id"])

    def record(self, instance_id: str) -> Any:
        """Return the record."""
        return self.fleet.record(instance_id)

    def listed(self) -> Any:
        """Return id → record of all that are not ended."""
        answer = self.fleet.call("GET", "/instances")
        return answer.json() if answer.ok else {}

    def status(self, instance_id: str) -> str:
        """Return its status."""
        return str(self.record(instance_id).get("status"))

    def becomes(self, instance_id: str, *statuses: str, within_s: float = 30.0) -> float:
        """Return how many seconds it took to have one of these statuses."""
        return seconds_until(
            lambda: self.status(instance_id) in statuses,
            within_s,
            what=f"{instance_id} is {' or '.join(statuses)}",
        )

    def delete(self, instance_id: str) -> None:
        """Delete an instance and wait until it is verified gone."""
        assert self.fleet.delete(instance_id).get("status") == "deleted", self.record(instance_id)

    def events(self, instance_id: str) -> list[dict[str, str]]:
        """Return what happened to an instance, oldest first."""
        with self.redis.client() as client:
            found = client.xrange(f"fleet:events:{instance_id}")
        return [dict(fields) for _, fields in found]

    def spawns(self, instance_id: str) -> int:
        """Return how often it was started, by its events."""
        before, count = "", 0
        for event in self.events(instance_id):
            count += event["status"] == "starting" and before != "starting"
            before = event["status"]
        return count

    def node_status(self, instance_id: str) -> str:
        """Return what is said of its node."""
        return str(self.record(instance_id)["node_status"])

    def engine_pid_behind(self, instance_id: str) -> int | None:
        """Return the pid of whoever answers requests for an instance; None if nobody does."""
        answer = requests.get(f"{self.fleet.base}/proxy/{instance_id}/echo", timeout=10)
        pid = answer.headers.get("X-Engine-Pid")
        return int(pid) if pid else None

    def shim_of(self, instance_id: str) -> int:
        """Return the pid of its shim."""
        return sight.shims(self.folder)[instance_id][0]

    # afterwards

    def heal(self) -> None:
        """Make everything well: what died is started, what is left over deleted."""
        for net in (self.worker_net, self.web_net):
            if net:
                net.heal()
        if self.namespace:
            self.namespace.heal()
        if not self.redis.answers():
            self.redis.kill()
            self.redis.start()
        for node in self.setup.nodes:
            if self.workers[node].popen.poll() is not None:
                self.start_worker(node)
        assert self.web, "never started"
        if self.web.popen.poll() is not None:
            self.start_web()
        for i, beat in enumerate(self.beats):
            if beat.popen.poll() is not None:
                self.beats[i] = self.fleet.start_beat()
        seconds_until(lambda: self.fleet.call("GET", "/readyz").ok, START_S, what="the web is well")
        seconds_until(self._empty, 60, what="everything could be deleted")

    def close(self) -> None:
        """End everything."""
        self.fleet.close()
        for net in (self.worker_net, self.web_net):
            if net:
                net.close()
        self.redis.close()
        if self.namespace:
            self.namespace.close()

    def _empty(self) -> bool:
        known = self.fleet.call("GET", "/instances")
        if not known.ok:
            return False
        for instance_id in known.json():
            self.fleet.call("DELETE", f"/instances/{instance_id}")
        for instance_id in known.json():
            self.fleet.call("DELETE", f"/instances/{instance_id}", params={"wait": "10"})
        return not known.json() and not sight.trees(self.folder)


@contextmanager
def ground(folder: Path, setup: Setup) -> Iterator[Ground]:
    """Run a fleet as `setup` says; end all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with _disk(folder, setup.small_disk_mib):
        namespace = Namespace() if setup.namespace else None
        addresses = ("127.0.0.1", namespace.redis_address) if namespace else ("127.0.0.1",)
        data = folder.with_name(f"{folder.name}-redis") if setup.redis_apart else folder / "redis"
        redis = RedisProcess(data, addresses=addresses)
        redis.start()
        fleet = LocalFleet(folder, redis.url, {**SCALED, **dict(setup.env)})
        stands = Ground(setup, fleet, redis, namespace)
        if setup.bad_network:
            stands.worker_net, stands.web_net = FaultProxy(redis.socket), FaultProxy(redis.socket)
        if setup.gpus:
            pretend_gpus(folder, setup.gpus)
        try:
            stands.start()
            yield stands
        finally:
            stands.close()
            _end_strays(folder)


def pretend_gpus(folder: Path, count: int, holders: Mapping[str, list[int]] | None = None) -> None:
    """Have the stand-in for NVIDIA's driver show devices, and which pids hold memory on them."""
    import json  # noqa: PLC0415

    text = json.dumps({"count": count, "holders": dict(holders or {})})
    draft = folder / "driver.json.new"
    draft.write_text(text)
    draft.rename(folder / "driver.json")


def _driver(folder: Path) -> dict[str, str]:
    stand_in = Path(__file__).parent / "driver"
    return {"PYTHONPATH": str(stand_in), "STANDIN_DRIVER": str(folder / "driver.json")}


@contextmanager
def _disk(folder: Path, mib: int) -> Iterator[None]:
    if not mib:
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        begun = monotonic()
        while subprocess.run(["umount", folder], check=False, capture_output=True).returncode:
            assert monotonic() - begun < 20, f"{folder} cannot be unmounted"
            pause(0.2)


def _end_strays(folder: Path) -> None:
    for pid in processes_of(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
