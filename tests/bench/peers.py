"""What we are compared with, installed under .bench/ where it is not there yet, without root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from shared.settings import ROOT
from tests.bench.errors import BenchError
from workers.provision import debian
from workers.provision.errors import ProvisionError
from workers.provision.packages import pip
from workers.provision.places import Places
from workers.provision.progress import Progress
from workers.provision.steps import Steps
from workers.provision.venv import provide_venv

FOLDER = ROOT / ".bench"
_REQUIREMENTS = Path(__file__).parent / "requirements"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One program, and which it is."""

    program: Path
    version: str


def provide(names: Collection[str]) -> dict[str, Peer]:
    """Return the peers among `names`, installed.

    Raises:
        BenchError: one cannot be had; says what to install.
    """
    FOLDER.mkdir(exist_ok=True)
    try:
        places = Places.from_environ(os.environ)
        steps = Steps(
            progress=Progress(sys.stderr), log=FOLDER / "install.log", environ=places.environ
        )
        found: dict[str, Peer] = {}
        if "nginx" in names:
            found["nginx"] = _nginx(steps)
        for name, package in (("vllm_router", "vllm-router"), ("litellm", "litellm")):
            if name in names:
                found[name] = _from_pypi(package, places, steps)
    except ProvisionError as error:
        raise BenchError("\n".join([str(error), *error.tail])) from error
    return found


def _nginx(steps: Steps) -> Peer:
    """Return the machine's nginx, or else Debian's package of it, unpacked."""
    own = FOLDER / "nginx"
    # Debian keeps it where an ordinary user's PATH does not lead.
    path = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
    program = Path(shutil.which("nginx", path=path) or own)
    if not program.exists():
        with tempfile.TemporaryDirectory(prefix="bench-", dir=FOLDER) as workspace:
            unpacked = debian.fetch("nginx", "usr/sbin/nginx", Path(workspace), steps)
            if unpacked is not None:
                shutil.copy2(unpacked, own)
    try:
        said = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchError("everything is measured against nginx: apt install nginx-light") from error
    return Peer(program=program, version=said.strip().rpartition("/")[2])


def _from_pypi(package: str, places: Places, steps: Steps) -> Peer:
    """Return the program of that name out of an environment of its own, pinned to the last byte."""
    requirements = _REQUIREMENTS / f"{package}.txt"
    environment, wanted = FOLDER / package, requirements.read_text()
    done = environment / "installed.txt"
    if not done.exists() or done.read_text() != wanted:
        done.unlink(missing_ok=True)
        provide_venv(environment, places, steps.progress)
        words = [*pip(environment / "bin/python"), "install", *places.pip_words]
        steps.require(f"installing {package}", [*words, "-r", str(requirements)])
        done.write_text(wanted)
    version = re.search(rf"^{package}(?:\[\w+\])?==(\S+)$", wanted, re.MULTILINE)
    return Peer(program=environment / "bin" / package, version=version[1] if version else "unknown")
