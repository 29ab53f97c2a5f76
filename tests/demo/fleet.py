"""A whole fleet as a child process: the Procfile as shipped, on ports that are free."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import requests

from shared.settings import ROOT
from tests.demo.waiting import until

FOREGROUND = (sys.executable, "-m", "shared.foreground")
_START_S = 60.0  # environments are there; this is interpreters on a busy machine
_STOP_S = 90.0


class FleetDidNotStart(Exception):
    """The message holds the end of the fleet's log."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """A running fleet."""

    base: str  # URL of the web tier
    flower: str  # URL of Flower
    run_dir: Path
    log: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> float:
        """End it as Ctrl-C does; return how many seconds that took."""
        began = monotonic()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)  # as a terminal does, to the whole group
        self.process.wait(_STOP_S)
        return monotonic() - began


def free_ports(count: int, *, first: int) -> int:
    """Return the first of `count` free ports in a row, from `first` on."""
    port = first
    while True:
        taken = next((p for p in range(port, port + count) if not _is_free(p)), None)
        if taken is None:
            return port
        port = taken + 1


@contextmanager
def running_fleet(
    run_dir: Path, env: Mapping[str, str], command: Sequence[str] = FOREGROUND
) -> Iterator[Fleet]:
    """Run a fleet; ends it at exit.

    Raises:
        FleetDidNotStart: it was not ready in time.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    web, flower = free_ports(1, first=5000), free_ports(1, first=5555)
    engines = free_ports(24, first=9000)
    log = run_dir / "fleet.log"
    settings = {
        "APP_PORT": str(web),
        "FLOWER_PORT": str(flower),
        "VLLM_BASE_PORT": str(engines),
        "RUN_DIR": str(run_dir),
        **env,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | settings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    base, page = f"http://localhost:{web}", f"http://localhost:{flower}"
    fleet = Fleet(base=base, flower=page, run_dir=run_dir, log=log, process=process)
    try:
        _wait_until_ready(fleet)
        yield fleet
    finally:
        fleet.stop()


def _wait_until_ready(fleet: Fleet) -> None:
    def ready() -> bool:
        if fleet.process.poll() is not None:
            raise FleetDidNotStart(f"the fleet ended at once:\n{_end_of(fleet.log)}")
        try:
            return requests.get(f"{fleet.base}/readyz", timeout=5).ok
        except requests.RequestException:
            return False

    if not until(ready, _START_S):
        raise FleetDidNotStart(f"not ready after {_START_S:g} s:\n{_end_of(fleet.log)}")


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True
