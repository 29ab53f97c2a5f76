"""This node's Celery worker: `python -m workers`. One per node; a second one refuses to start."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
from pathlib import Path

from shared.errors import SettingsError
from shared.logs import log_to_stderr
from shared.policy import policy
from shared.settings import Settings
from workers.bootstep import ALREADY_RUNS, SupervisorStep


def main() -> None:
    """Run the worker until it is told to stop."""
    settings = Settings.load_or_exit()
    log_to_stderr(debug=settings.app_debug)
    if not settings.app_debug:
        # The supervisor says what happens, Flower keeps the tasks; a line per sweep says nothing.
        for name in ("celery.worker.strategy", "celery.app.trace"):
            logging.getLogger(name).setLevel(logging.WARNING)
    if not settings.engine_env_file.is_file():
        sys.exit(f"ENGINE_ENV_FILE={settings.engine_env_file}: there is no such file")
    try:
        policy(settings)
    except SettingsError as error:
        sys.exit(str(error))
    if not _hold(settings.run_dir / "worker.lock"):
        sys.stderr.write(f"a worker already runs with RUN_DIR={settings.run_dir}; one per node\n")
        sys.exit(ALREADY_RUNS)
    from workers.app import app  # noqa: PLC0415 - connects to Redis: only once we hold the node

    words = [
        "--quiet",
        "worker",
        "--pool=threads",
        "--concurrency=4",
        f"--hostname=worker@{settings.node_name}",
        "--without-gossip",
        "--without-mingle",
        f"--loglevel={'DEBUG' if settings.app_debug else 'INFO'}",
    ]
    try:
        app.worker_main(words)
    finally:  # Celery's is 0 whoever told it to end; who starts workers again goes by it
        if SupervisorStep.thread is not None and SupervisorStep.thread.exit_status:
            sys.exit(SupervisorStep.thread.exit_status)


def _hold(path: Path) -> bool:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True  # held, open, until this process ends


if __name__ == "__main__":
    main()
