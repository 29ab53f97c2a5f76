"""A real Redis for tests: the embedded server, on a socket of its own."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from shared.embedded_redis import server_program
from shared.settings import ROOT
from tests.demo.waiting import until

_START_S = 10.0


@contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """Run a redis-server with its data in `folder`; yield its URL; end it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="redis-") as short:  # a socket's path is short
        path = Path(short) / "redis.sock"
        command = server_command(folder, str(path))
        log = (folder / "redis.log").open("wb")
        with log, subprocess.Popen(command, stdout=log, stderr=log) as server:
            try:
                url = f"unix://{path}"
                assert until(lambda: _answers(url), _START_S), (folder / "redis.log").read_text()
                yield url
            finally:
                server.kill()
                server.wait()


def server_command(folder: Path, socket: str) -> list[str]:
    """Return what runs a redis-server with its data in `folder`, listening on `socket`."""
    conf = str(ROOT / "configs/redis.conf")
    return [str(server_program()), conf, "--dir", str(folder), "--unixsocket", socket]


def _answers(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False
