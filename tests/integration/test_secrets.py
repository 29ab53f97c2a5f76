"""Secrets appear on no surface: unique ones are planted, and everything is searched.

An engine's own key is in its record in Redis, where every web process must find it, and in its
launch.json, from which its shim starts it: nowhere else.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.demo.waiting import until
from tests.integration.harness import STANDIN, LocalFleet, local_fleet
from workers.run_directory import RunDirectory

REDIS = "planted-1f0c-redis-password"
HUB = "hf_planted2b7dHubTokenHubTokenHub"
PROXY = "planted-3c9e-proxy-password"
OWN = "planted-4d1a-operators-own"
PLANTED = {REDIS, HUB, PROXY, OWN}

# Says all it knows before it serves, as a library in debug mode might.
TALKATIVE = shlex.join(["sh", "-c", f'env; exec {STANDIN} "$@"', "sh"])


@dataclass(slots=True)
class Surfaces:
    """What was seen of a fleet while it ran, in words: where, and the text that stood there."""

    fleet: LocalFleet
    seen: list[tuple[str, str]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)  # of engines
    ids: list[str] = field(default_factory=list)

    def call(self, method: str, path: str, base: str | None = None, **kwargs: Any) -> Any:
        """Ask the web tier, or another server of the fleet; keep the whole answer."""
        url = f"{base or self.fleet.base}{path}"
        answer = self.fleet.http.request(method, url, timeout=60, **kwargs)
        self.seen.append((f"answer to {method} {path}", f"{answer.headers}\n{answer.text}"))
        return answer

    def create(self, **params: object) -> Any:
        """Create an instance and wait until it has settled."""
        body = {"model_name": "org/tiny", "params": params, "env": {"VLLM_LOGGING_LEVEL": "DEBUG"}}
        record = self.call("POST", "/instances?wait=30", json=body).json()
        self.ids.append(record["instance_id"])
        return record

    def look(self) -> None:
        """Keep all that REST, Redis and the process table show now."""
        for path in ("/instances", "/instances?all=1", "/healthz", "/readyz", "/no/such"):
            self.call("GET", path)
        for instance_id in self.ids:
            for path in ("", "/logs?tail=1000", "/logs?run=previous", "/events"):
                self.call("GET", f"/instances/{instance_id}{path}")
            self.call("GET", f"/proxy/{instance_id}/v1/models")
        self._read_redis()
        for process in Path("/proc").glob("[0-9]*"):
            if int(process.name) != os.getpid():
                self._keep(f"command line of {process.name}", process / "cmdline")

    def _read_redis(self) -> None:
        with redis.Redis.from_url(self.fleet.redis_url, decode_responses=True) as client:
            for key in client.scan_iter():
                self.seen.append(("name of a key", key))
                self.seen += [(f"{key} in Redis", text) for text in self._values(client, key)]

    def _values(self, client: Any, key: str) -> Iterator[str]:
        match client.type(key):
            case "string":
                yield str(client.get(key))
            case "list":
                yield from client.lrange(key, 0, -1)
            case "set":
                yield from client.smembers(key)
            case "zset":
                yield from client.zrange(key, 0, -1)
            case "stream":
                yield str(client.xrange(key))
            case "hash":
                fields = client.hgetall(key)
                if "instance_id" in fields:
                    fields.pop("engine_key", None)
                yield str(fields)

    def read_files(self) -> None:
        """Keep the fleet's logs and what lies in run directories, but for launch.json."""
        for launch in self.fleet.folder.glob("run-*/engines/*/launch.json"):
            self.keys.add(json.loads(launch.read_text())["key"])
        for log in self.fleet.folder.glob("*.log"):
            self._keep(f"log {log.name}", log)
        for path in self.fleet.folder.glob("run-*/**/*"):
            if path.is_file() and path.name != "launch.json":
                self._keep(str(path.relative_to(self.fleet.folder)), path)

    def leaks(self) -> list[str]:
        """Return where secrets were seen."""
        secrets = PLANTED | self.keys
        return sorted(
            {
                f"{where}: {secret}"
                for where, text in self.seen
                for secret in secrets
                if secret in text
            }
        )

    def _keep(self, where: str, path: Path) -> None:
        try:
            self.seen.append((where, path.read_bytes().decode(errors="replace")))
        except OSError:
            return  # it has ended


@pytest.fixture(scope="module")
def surfaces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surfaces]:
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "engine.env").write_text(f"SOME_SERVICE_PASSWORD={OWN}\n")
    planted = {
        "HF_TOKEN": HUB,
        "HTTPS_PROXY": f"http://me:{PROXY}@127.0.0.1:9",
        "ENGINE_ENV_FILE": str(folder / "engine.env"),
        "NO_PROXY": "*",
        "APP_DEBUG": "true",
        "RESTART_MAX_FAILED_STARTS": "1",  # who crashes here has failed
        "RESTART_MAX_PER_HOUR": "1",
    }
    # Another secret of the fleet, API keys say, is planted here and created below.
    with local_fleet(folder, redis_password=REDIS, **planted) as fleet:
        found = Surfaces(fleet)
        stop = threading.Event()
        watcher = threading.Thread(target=watch_commands, args=(fleet.redis_url, found, stop))
        watcher.start()
        try:
            live(found)
        finally:
            stop.set()
            watcher.join()
        yield found


def live(found: Surfaces) -> None:
    """Have instances run, fail and crash on two nodes, one of which says all it knows."""
    fleet = found.fleet
    fleet.start_web()
    fleet.start_beat()
    fleet.start_worker("one", VLLM_MAX_INSTANCES="1")
    assert found.create(oom_message=True)["status"] == "failed"
    crashed = found.create(crash_after=0.3, crash_code=7)["instance_id"]
    fleet.becomes(crashed, "failed")
    assert found.create()["status"] == "running"
    fleet.start_worker("two", VLLM_COMMAND=TALKATIVE)
    talked = found.create()
    assert (talked["status"], talked["node"]) == ("running", "two")
    flower = fleet.start_flower()
    found.call("POST", "/instances", json={"model_name": "m", "params": {"worker_cls": HUB[:9]}})
    found.look()
    for path in ("/workers", "/tasks", "/broker", "/api/workers", "/api/tasks"):
        found.call("GET", path, flower)
    assert fleet.delete(talked["instance_id"])["status"] == "deleted"
    found.look()


def watch_commands(url: str, found: Surfaces, stop: threading.Event) -> None:
    """Keep every command that Redis gets, task messages among them."""
    with redis.Redis.from_url(url) as client, client.monitor() as monitor:
        while not stop.is_set():  # beat and heartbeats keep commands coming
            command = str(monitor.next_command()["command"])
            if "engine_key" not in command:  # but the worker's own write of it
                found.seen.append(("command to Redis", command))


def test_no_secret_is_seen_while_instances_run_fail_and_crash(surfaces: Surfaces) -> None:
    surfaces.read_files()
    said_by_itself = [
        f"run-two/engines/{surfaces.ids[-1]}/run-1.log" in leak for leak in surfaces.leaks()
    ]
    assert any(said_by_itself), "the talkative engine was meant to say its secrets to its own log"
    assert len(surfaces.keys) == 4
    assert [leak for leak in surfaces.leaks() if not in_its_own_words(leak)] == []


def test_the_search_saw_every_kind_of_surface(surfaces: Surfaces) -> None:
    surfaces.read_files()
    seen = dict.fromkeys(where.split(maxsplit=1)[0] for where, _ in surfaces.seen)
    assert {"answer", "command", "log", "name"} <= seen.keys()
    for said in ("fleet.start_instance", "worker@one", "Traceback", "standin", "/api/tasks"):
        assert any(said in where + text for where, text in surfaces.seen), said
    commands = [text for where, text in surfaces.seen if where.startswith("command line")]
    assert any("workers.shim" in text for text in commands)
    assert any("web.wsgi" in text for text in commands)


def in_its_own_words(leak: str) -> bool:
    """Tell whether it is the raw log, on disk, of an engine that said it: see tests.standin.

    The talkative one says all it knows, the others are careless with the hub's token.
    """
    _, in_raw_log, secret = leak.partition("/run-1.log: ")
    talkative = leak.startswith("run-two/engines/")
    careless = leak.startswith("run-one/engines/") and secret == HUB
    return bool(in_raw_log) and (talkative or careless)


def test_what_a_talkative_engine_said_is_passed_on_without_its_secrets(surfaces: Surfaces) -> None:
    logs = [text for where, text in surfaces.seen if where.endswith("/logs?tail=1000")]
    assert any("HF_TOKEN=[secret]" in text and "VLLM_API_KEY=[secret]" in text for text in logs)
    assert any("HTTPS_PROXY=http://[secret]@127.0.0.1:9" in text for text in logs)
    assert not any("REDIS_URL" in text for text in logs)


def test_files_with_secrets_are_their_owners_alone(surfaces: Surfaces) -> None:
    launches = list(surfaces.fleet.folder.glob("run-*/engines/*/launch.json"))
    logs = list(surfaces.fleet.folder.glob("run-*/engines/*/run-1.log"))
    assert len(launches) == len(logs) == 4
    for path in [*launches, *logs]:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700


def test_engines_know_what_they_need_and_shims_nothing(surfaces: Surfaces) -> None:
    surfaces.read_files()
    running = surfaces.ids[2]
    record = surfaces.fleet.record(running)
    engine = Path(f"/proc/{record['pid']}/environ").read_bytes().decode()
    assert HUB in engine
    assert REDIS not in engine
    shim = RunDirectory(surfaces.fleet.run_dir("one") / "engines" / running).lock_holder()
    environ = Path(f"/proc/{shim}/environ").read_bytes().decode()
    assert not [secret for secret in PLANTED | surfaces.keys if secret in environ]


def test_nothing_is_told_when_redis_goes_away(surfaces: Surfaces) -> None:
    """The last test here: it ends the fleet's Redis."""
    os.kill(surfaces.fleet.redis_pid(), signal.SIGKILL)
    assert until(lambda: surfaces.call("GET", "/readyz").status_code == 503, 10)
    assert surfaces.call("GET", "/instances").status_code == 503
    body = {"model_name": "org/tiny"}
    assert surfaces.call("POST", "/instances", json=body).status_code == 503
    until(lambda: False, 3)  # for the workers to say what they think of it
    surfaces.read_files()
    assert [leak for leak in surfaces.leaks() if not in_its_own_words(leak)] == []
