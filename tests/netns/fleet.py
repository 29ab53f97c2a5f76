"""A fleet over such a network: nodes, web tiers and Redis are hosts; callers are in the middle."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from shared.settings import ROOT
from tests.demo.waiting import until
from tests.faults.redis_process import RedisProcess
from tests.integration.harness import START_S, LocalFleet, Process
from tests.netns.lan import Host, Lan

_WEB_PORT = 5000  # on each host: their ports are their own
_SETTINGS = {
    "PROXY_CONNECT_TIMEOUT": "1",  # a host that is cut off says nothing
    "DRAIN_TIMEOUT": "1",  # of an engine that hangs for good
    "WEB_PROCESSES": "1",
    "WEB_THREADS": "16",
}


@dataclass(slots=True)
class WebTier:
    """One web tier, and a caller of it that has a key."""

    host: Host
    key: str
    process: Process
    http: requests.Session = field(default_factory=requests.Session)

    @property
    def base(self) -> str:
        """Its address."""
        return f"http://{self.host.address}:{_WEB_PORT}"

    def call(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        """Ask it, with the key."""
        headers = {"Authorization": f"Bearer {self.key}", **kwargs.pop("headers", {})}
        kwargs.setdefault("timeout", 60)
        return self.http.request(method, f"{self.base}{path}", headers=headers, **kwargs)

    def create(self, model: str = "org/tiny", **asked: Any) -> Any:
        """Create an instance; return its record once it has settled."""
        body = {"model_name": model, "timeout": 600, **asked}
        answer = self.call("POST", "/instances", json=body, params={"wait": "30"})
        assert answer.status_code == 201, answer.text
        return answer.json()

    def record(self, instance_id: str) -> Any:
        """Return an instance's record."""
        return self.call("GET", f"/instances/{instance_id}").json()

    def proxied(self, instance_id: str) -> int:
        """Return the status of a request to an instance."""
        return self.call("GET", f"/proxy/{instance_id}/v1/models").status_code


@dataclass(slots=True)
class FleetOverLan:
    """Hosts, and what runs on them."""

    lan: Lan
    redis: RedisProcess
    redis_host: Host
    local: LocalFleet
    nodes: dict[str, Host] = field(default_factory=dict)
    workers: dict[str, Process] = field(default_factory=dict)
    webs: list[WebTier] = field(default_factory=list)

    @property
    def web(self) -> WebTier:
        """The first web tier."""
        return self.webs[0]

    def start_node(self, name: str, **env: str) -> None:
        """Start a node's worker on a host of its own, at first or again; wait until it lives."""
        host = self.nodes.get(name) or self.lan.host(name)
        self.nodes[name] = host
        settings = {
            "NODE_NAME": name,
            "NODE_ADDRESS": host.address,
            "RUN_DIR": str(self.local.run_dir(name)),
            "REDIS_URL": self._redis_url,
            **env,
        }
        command = [*host.enter, sys.executable, "-m", "workers"]
        worker = self.workers[name] = self.local.start(name, command, settings)
        ready = f"worker@{name} ready"
        assert until(lambda: ready in worker.log.read_text(), START_S), worker.log.read_text()

    def start_web(self) -> WebTier:
        """Start a web tier on a host of its own."""
        host = self.lan.host(f"web{len(self.webs)}")
        env = {
            "APP_HOST": host.address,
            "APP_PORT": str(_WEB_PORT),
            "RUN_DIR": str(self.local.folder / f"run-{host.name}"),
            "REDIS_URL": self._redis_url,
        }
        command = [*host.enter, "gunicorn", "--config", str(self.local.config), "web.wsgi:app"]
        process = self.local.start(host.name, command, env)
        key = self.webs[0].key if self.webs else self._made_key()
        web = WebTier(host, key, process)
        self.webs.append(web)
        assert until(lambda: _answers(web), START_S), process.log.read_text()
        return web

    def clear(self) -> None:
        """Heal the network and delete all instances."""
        self.lan.heal()
        for name, worker in self.workers.items():
            if worker.popen.poll() is not None:
                self.start_node(name)
        assert until(lambda: self._lost() == [], START_S), self._lost()
        left = self.web.call("GET", "/instances").json()
        for instance_id in left:  # to stop together
            self.web.call("DELETE", f"/instances/{instance_id}")
        for instance_id in left:
            said = self.web.call("DELETE", f"/instances/{instance_id}", params={"wait": "30"})
            assert said.json().get("status") == "deleted", said.text

    def age(self, node: str, seconds: float) -> None:
        """Have a node that is silent be so for longer already."""
        self.redis.do("ZINCRBY", "fleet:beats", str(-seconds), node)

    def node(self, name: str) -> Any:
        """Return a node as the first web tier shows it."""
        return self.web.call("GET", f"/nodes/{name}").json()

    def _lost(self) -> list[str]:
        return [name for name in self.nodes if self.node(name).get("status") != "alive"]

    @property
    def _redis_url(self) -> str:
        return f"redis://{self.redis_host.address}:{self.redis.port}/0"

    def _made_key(self) -> str:
        words = ["-m", "flask", "--app", "web", "keys", "create", "tests", "--scope", "admin"]
        env = {"REDIS_URL": self.redis.url, "RUN_DIR": str(self.local.folder / "run-keys")}
        made = subprocess.run(
            ["env", *(f"{name}={value}" for name, value in env.items()), sys.executable, *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return next(word for word in made.stdout.split() if word.startswith("vfm_"))


@contextmanager
def fleet_over_lan(folder: Path, *, nodes: tuple[str, ...], webs: int) -> Iterator[FleetOverLan]:
    """Run Redis, nodes and web tiers, a host each, and beat; end all of it."""
    lan = Lan()
    host = lan.host("redis")
    redis = RedisProcess(folder / "redis", addresses=(host.address,), enter=host.enter)
    local = LocalFleet(folder, redis.url, dict(_SETTINGS))
    fleet = FleetOverLan(lan, redis, host, local)
    try:
        redis.start()
        for name in nodes:
            fleet.start_node(name, VLLM_MAX_INSTANCES="3")
        local.start_beat()
        for _ in range(webs):
            fleet.start_web()
        yield fleet
    finally:
        lan.heal()
        for process in local.processes:  # they would say goodbye to a Redis that was cut off
            process.popen.kill()
        local.close()
        for web in fleet.webs:
            web.http.close()
        redis.close()
        lan.close()


def _answers(web: WebTier) -> bool:
    try:
        return web.call("GET", "/readyz", timeout=5).ok
    except (requests.ConnectionError, requests.Timeout):
        return False
