"""A Redis that can be killed, frozen, filled, emptied and failed over."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.demo.fleet import free_ports
from tests.faults.timing import seconds_until
from tests.redis_server import server_command

_START_S = 20.0


class RedisProcess:
    """One redis-server with its data in a folder, on a Unix socket and on TCP ports."""

    def __init__(
        self,
        folder: Path,
        *,
        addresses: tuple[str, ...] = ("127.0.0.1",),
        enter: tuple[str, ...] = (),
    ) -> None:
        """Choose where it listens, and what its command is run by; `start` it then."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_ports(1, first=26_400 + os.getpid() % 2000)
        self._short = Path(tempfile.mkdtemp(prefix="redis-"))  # a socket's path is short
        self.socket = str(self._short / "redis.sock")
        self.url = f"unix://{self.socket}"
        self.is_frozen = False
        self._addresses = addresses
        self._enter = enter
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return its pid."""
        assert self._server
        return self._server.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        seconds_until(self.answers, _START_S, what="Redis answers")

    def launch(self) -> None:
        """Start it."""
        listening = ["--bind", *self._addresses, "--port", str(self.port), "--protected-mode", "no"]
        with (self.folder / "redis.log").open("ab") as log:
            self._server = subprocess.Popen(
                [*self._enter, *server_command(self.folder, self.socket), *listening],
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    def close(self) -> None:
        """End it for good."""
        self.kill()
        shutil.rmtree(self._short, ignore_errors=True)

    def answers(self) -> bool:
        """Return whether it answers, with its data loaded."""
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def client(self) -> Any:
        """Return a client; close it."""
        return redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=5)

    def do(self, *words: str) -> Any:
        """Run one command."""
        with self.client() as client:
            return client.execute_command(*words)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Have it take connections and answer nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        self.is_frozen = True
        try:
            yield
        finally:
            self.is_frozen = False
            os.kill(self.pid, signal.SIGCONT)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Have it refuse every write for want of memory."""
        self.do("CONFIG", "SET", "maxmemory", "1")
        try:
            yield
        finally:
            self.do("CONFIG", "SET", "maxmemory", "0")

    @contextmanager
    def failed_over(self) -> Iterator[None]:
        """Have it be the replica of somebody else, as in the middle of a failover."""
        self.do("REPLICAOF", "127.0.0.1", "1")
        try:
            yield
        finally:
            self.do("REPLICAOF", "NO", "ONE")

    def keys(self) -> dict[str, int]:
        """Return how many keys there are of each kind: `instance`, `events`, `claims` ..."""
        counted: dict[str, int] = {}
        with self.client() as client:
            for key in client.scan_iter("fleet:*"):
                kind = key.split(":")[1]
                counted[kind] = counted.get(kind, 0) + 1
        return counted
