"""What ran, and on which machine."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from shared.embedded_redis import server_program
from shared.settings import ROOT
from tests.bench.peers import Peer

_OURS = ("gunicorn", "uvloop", "flask", "redis", "hiredis")


def of_programs(peers: Mapping[str, Peer]) -> dict[str, str]:
    """Return the version of everything that took part."""
    compiler = _said([shutil.which("gcc") or "cc", "-dumpfullversion"])
    return {
        "vLLM Fleet": _commit(),
        "Python": platform.python_version(),
        **{name: version(name) for name in _OURS},
        "redis-server": _first(r"v=(\S+)", _said([str(server_program()), "--version"])),
        **{name.replace("_", "-"): peer.version for name, peer in peers.items()},
        "gcc": compiler,
    }


def of_machine() -> dict[str, str]:
    """Return what this machine is."""
    cpu = _first(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    kib = _first(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "CPU": f"{cpu}, {os.cpu_count()} cores",
        "memory": f"{int(kib) / 1024**2:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
    }


def _commit() -> str:
    commit = _said(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"])
    changed = _said(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"])
    return f"{commit or 'no commit'}{' and uncommitted changes' if changed else ''}"


def _said(words: list[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1].strip() if found else "unknown"
