"""Compile the synthetic engine and the load generator."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.bench.errors import BenchError

SOURCES = Path(__file__).parent / "programs"
_FLAGS = ("-O3", "-Wall", "-Wextra", "-Werror", "-std=gnu11")


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the compiled programs are."""

    engine: Path
    loadgen: Path


def build(folder: Path) -> Programs:
    """Return the programs, compiled into `folder` where their sources are newer.

    Raises:
        BenchError: there is no C compiler, or it failed.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise BenchError(
            "no C compiler: the benchmark's load generator needs gcc (apt install gcc)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return Programs(*(_built(name, folder, compiler) for name in ("engine", "loadgen")))


def _built(name: str, folder: Path, compiler: str) -> Path:
    program = folder / name
    sources = [SOURCES / f"{name}.c", SOURCES / "wire.h"]
    newest = max(source.stat().st_mtime for source in sources)
    if not program.exists() or program.stat().st_mtime < newest:
        words = [compiler, *_FLAGS, "-o", str(program), str(sources[0])]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchError(f"{name}.c does not compile:\n{done.stderr}")
    return program
