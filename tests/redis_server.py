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
def running_redis(folder: Path, *, password: str = "", port: int = 0) -> Iterator[str]:
    """Run a redis-server with its data in `folder`; yield its URL; end it.

    Args:
        folder: for its data.
        password: to ask for; needs a port. It stands in a file, as on a careful operator's machine.
        port: of loopback to listen on; 0: a socket only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="redis-") as short:  # a socket's path is short
        path = Path(short) / "redis.sock"
        config = Path(short) / "redis.conf"
        asked = f"requirepass {password}\n" if password else ""
        config.write_text(f"include {ROOT / 'configs/redis.conf'}\n{asked}")
        listening = ["--bind", "127.0.0.1", "--port", str(port)] if port else []
        command = [*server_command(folder, str(path), config), *listening]
        log = (folder / "redis.log").open("wb")
        with log, subprocess.Popen(command, stdout=log, stderr=log) as server:
            try:
                url = f"redis://:{password}@127.0.0.1:{port}/0" if port else f"unix://{path}"
                assert until(lambda: _answers(url), _START_S), (folder / "redis.log").read_text()
                yield url
            finally:
                server.kill()
                server.wait()


def server_command(
    folder: Path, socket: str, config: Path = ROOT / "configs/redis.conf"
) -> list[str]:
    """Return what runs a redis-server with its data in `folder`, listening on `socket`."""
    return [str(server_program()), str(config), "--dir", str(folder), "--unixsocket", socket]


def _answers(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False
