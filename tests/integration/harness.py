"""A fleet of real processes for tests: Redis, web, workers and beat, with stand-in engines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from shared.settings import ROOT
from shared.store.redis import RedisStore, connect
from tests.demo.waiting import until
from tests.ports import ports
from tests.redis_server import running_redis

STANDIN = f"{sys.executable} {ROOT / 'tests/standin/vllm'}"
START_S = 30.0
_PORTS_PER_NODE = 25
WAIT = {"wait": "30"}  # seconds; a stand-in is ready in less than one


@dataclass(slots=True)
class Process:
    """One process of the fleet, with its log."""

    popen: subprocess.Popen[bytes]
    log: Path

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        """Send a signal and wait for the end; return the exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        return self.popen.wait(timeout_s)


@dataclass(slots=True)
class LocalFleet:
    """Processes on one Redis, and a client of the web tier."""

    folder: Path
    redis_url: str
    env: dict[str, str] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    base: str = ""
    config: Path = ROOT / "configs/gunicorn.conf.py"
    http: requests.Session = field(default_factory=requests.Session)
    _base_ports: dict[str, int] = field(default_factory=dict)  # node → its first port

    def start(self, name: str, command: list[str], env: Mapping[str, str]) -> Process:
        """Start a process of the fleet."""
        log = self.folder / f"{name}-{len(self.processes)}.log"
        settings = {
            "REDIS_URL": self.redis_url,
            "VLLM_COMMAND": STANDIN,
            "MODEL_CATALOGUE": os.devnull,  # what we ship is for real engines
            "DRAIN_TIMEOUT": "5",
            "STOP_TIMEOUT": "3",
            "IDLE_SWEEP_INTERVAL": "0.5",
            "PROXY_ALLOW_PATHS": "/*",  # the stand-in's probes; tests of closed paths unset it
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **self.env,
            **env,
        }
        with log.open("wb") as output:
            popen = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(Process(popen, log))
        return self.processes[-1]

    def start_web(self, *, worker_class: str | None = None, **env: str) -> Process:
        """Start the web tier, by default as configured, and wait until it answers."""
        web = self.begin_web(worker_class=worker_class, **env)
        assert until(lambda: self._answers("/healthz"), START_S), web.log.read_text()
        return web

    def begin_web(self, *, worker_class: str | None = None, **env: str) -> Process:
        """Start the web tier, by default as configured."""
        port = ports()
        self.base = f"http://localhost:{port}"
        chosen = ["--worker-class", worker_class] if worker_class else []
        return self.start(
            "web",
            ["gunicorn", "--config", str(self.config), *chosen, "web.wsgi:app"],
            {"APP_PORT": str(port), "WEB_PROCESSES": "1", **env},
        )

    def start_worker(self, node: str, **env: str) -> Process:
        """Start a node's worker and wait until its node lives."""
        settings = {
            "NODE_NAME": node,
            "RUN_DIR": str(self.run_dir(node)),
            "VLLM_BASE_PORT": str(self.base_port(node)),
            **env,
        }
        before = self._epoch_of(node)
        worker = self.start(node, [sys.executable, "-m", "workers"], settings)
        ready = f"worker@{node} ready"
        assert until(lambda: ready in worker.log.read_text(), START_S), worker.log.read_text()
        # Celery is; the supervisor, in a thread of its own, may have yet to say that the node is.
        assert until(lambda: self._epoch_of(node) > before, START_S), worker.log.read_text()
        return worker

    def start_beat(self) -> Process:
        """Start beat."""
        return self.start("beat", ["celery", "--app", "workers.app", "--quiet", "beat"], {})

    def start_flower(self) -> str:
        """Start Flower; return its URL once it answers."""
        port = ports()
        command = ["celery", "--app", "workers.app", "--quiet", "flower", "--address=127.0.0.1"]
        self.start("flower", [*command, f"--port={port}"], {})
        url = f"http://127.0.0.1:{port}"
        assert until(lambda: self._answers("/workers", url), START_S)
        return url

    def run_dir(self, node: str) -> Path:
        """Return the node's run directory."""
        return self.folder / f"run-{node}"

    def base_port(self, node: str) -> int:
        """Return the node's first port: nodes on one machine have ranges of their own."""
        if node not in self._base_ports:
            self._base_ports[node] = ports(_PORTS_PER_NODE)
        return self._base_ports[node]

    def call(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        """Ask the web tier."""
        return self.http.request(method, f"{self.base}{path}", timeout=60, **kwargs)

    def create(self, model: str = "org/tiny", *, timeout: int = 600, **params: object) -> Any:
        """Create an instance and return its record once it has settled."""
        body = {"model_name": model, "params": params, "timeout": timeout}
        answer = self.call("POST", "/instances", json=body, params=WAIT)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def record(self, instance_id: str) -> Any:
        """Return an instance's record."""
        return self.call("GET", f"/instances/{instance_id}").json()

    def becomes(self, instance_id: str, status: str, timeout_s: float = 20.0) -> Any:
        """Return the record once it has that status."""
        reached = until(lambda: self.record(instance_id)["status"] == status, timeout_s)
        record = self.record(instance_id)
        assert reached, record
        return record

    def delete(self, instance_id: str) -> Any:
        """Delete an instance and wait until it is verified gone."""
        return self.call("DELETE", f"/instances/{instance_id}", params=WAIT).json()

    def delete_all(self) -> None:
        """Delete what tests left behind."""
        for instance_id in self.call("GET", "/instances").json():
            self.delete(instance_id)

    def redis_pid(self) -> int:
        """Return the pid of this fleet's Redis."""
        return next(
            pid
            for pid in processes_of(self.folder)
            if b"redis-server" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )

    def close(self) -> None:
        """End everything, engines too, however the test went."""
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.send_signal(signal.SIGTERM)
        for process in self.processes:
            with suppress(subprocess.TimeoutExpired):
                process.popen.wait(60)
            if process.popen.poll() is None:
                process.end(signal.SIGKILL)
        self.http.close()
        for pid in processes_of(self.folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _epoch_of(self, node: str) -> int:
        """Return how often the node was announced; 0 if it is silent."""
        with closing(connect(self.redis_url)) as client:
            found = RedisStore(client).node(node)
        return 0 if found is None or found.lost else found.epoch

    def _answers(self, path: str, base: str | None = None) -> bool:
        try:
            return self.http.get(f"{base or self.base}{path}", timeout=5).ok
        except (requests.ConnectionError, requests.Timeout):  # not yet; or busy
            return False


@contextmanager
def local_fleet(folder: Path, *, redis_password: str = "", **env: str) -> Iterator[LocalFleet]:
    """Run a Redis; give a fleet on it, with nothing started yet; end all of it."""
    port = ports() if redis_password else 0
    with running_redis(folder / "redis", password=redis_password, port=port) as url:
        fleet = LocalFleet(folder, url, env)
        try:
            yield fleet
        finally:
            fleet.close()


def processes_of(folder: Path) -> list[int]:
    """Return the pids of all living processes that work below `folder`, or were told of it."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - names, many of them
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        with suppress(OSError):
            process = Path("/proc") / name
            if "\nState:\tZ" in (process / "status").read_text(errors="replace"):
                continue
            told = str(folder).encode() in (process / "cmdline").read_bytes()
            if told or str((process / "cwd").readlink()).startswith(str(folder)):
                found.append(int(name))
    return found
