"""Our web tier as it is run in production, in front of the synthetic engine.

A real Redis, a living node, a running instance's record, and an API key, which every request shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.domain.instance import Status, new_instance_id
from shared.domain.node import HEARTBEAT_S
from shared.embedded_redis import server_program
from shared.settings import ROOT
from shared.store import Change
from shared.store.redis import RedisStore, connect
from tests.bench.errors import BenchError
from tests.bench.processes import Program
from tests.builders import a_node, an_instance

_NODE = "bench"
_BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What our web tier needs to know, and what its callers need."""

    redis_url: str
    instance_id: str
    api_key: str
    run_dir: Path

    @property
    def prefix(self) -> str:
        """What stands before the engine's own paths."""
        return f"/proxy/{self.instance_id}"

    def env(self, port: int, processes: int) -> dict[str, str]:
        """Return the environment of a web tier."""
        return {
            "APP_HOST": "127.0.0.1",
            "APP_PORT": str(port),
            "APP_DEBUG": "false",
            "WEB_PROCESSES": str(processes),
            "REDIS_URL": self.redis_url,
            "RUN_DIR": str(self.run_dir / str(port)),
            "PATH": f"{_BIN}:{os.environ['PATH']}",
        }


@contextmanager
def fleet(folder: Path, cpu: int, engine_port: int, engine_key: str) -> Iterator[Fleet]:
    """Run a Redis in which the engine is the running instance of a node that lives."""
    with _redis(folder, cpu) as url:
        store = RedisStore(connect(url))
        epoch = store.announce(a_node(name=_NODE), holder="bench")
        over = threading.Event()
        beating = threading.Thread(target=_beat, args=(store, epoch, over), daemon=True)
        beating.start()
        try:
            instance_id = _record(store, epoch, engine_port, engine_key)
            yield Fleet(
                redis_url=url,
                instance_id=instance_id,
                api_key=_api_key(url, folder),
                run_dir=folder / "run",
            )
        finally:
            over.set()
            beating.join()


@contextmanager
def _redis(folder: Path, cpu: int) -> Iterator[str]:
    socket = folder / "redis.sock"
    words: list[str | Path] = [
        server_program(),
        ROOT / "configs/redis.conf",
        "--unixsocket",
        socket,
    ]
    redis = Program("redis", words, cpus=[cpu], folder=folder)
    try:
        redis.await_ready(socket.exists)
        yield f"unix://{socket}"
    finally:
        redis.end()


def _record(store: RedisStore, epoch: int, port: int, key: str) -> str:
    instance = an_instance(instance_id=new_instance_id("m"), model_name="m", node=_NODE, timeout=0)
    store.create(instance, max_instances=1)
    where = {"host": "127.0.0.1", "port": port, "engine_key": key}
    for status, fields in ((Status.STARTING, where), (Status.RUNNING, {})):
        change = Change(
            instance_id=instance.instance_id,
            node=_NODE,
            epoch=epoch,
            generation=instance.generation,
            status=status,
            fields=fields,
        )
        if not store.apply(change):
            raise BenchError(f"the store refused to make the instance {status}")
    return instance.instance_id


def _beat(store: RedisStore, epoch: int, over: threading.Event) -> None:
    while not over.wait(HEARTBEAT_S):
        store.heartbeat(_NODE, epoch)


def _api_key(redis_url: str, folder: Path) -> str:
    words = ["keys", "create", "bench", "--scope", "inference"]
    made = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "web", *words],
        cwd=ROOT,
        env={**os.environ, "REDIS_URL": redis_url, "RUN_DIR": str(folder / "run")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    key = next((word for word in made.stdout.split() if word.startswith("vfm_")), "")
    if not key:
        raise BenchError(f"no API key was made: {made.stderr or made.stdout}")
    return key
