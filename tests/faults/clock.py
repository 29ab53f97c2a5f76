"""A process with a wrong clock: a small library put before the C library's. Needs gcc."""

from __future__ import annotations

import subprocess
from pathlib import Path

_SOURCE = Path(__file__).parent / "programs/clock.c"


def shifted(folder: Path, seconds: int) -> dict[str, str]:
    """Return the environment of a process whose clock is wrong by `seconds`."""
    library = folder / "clock.so"
    if not library.exists():
        command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE)]
        subprocess.run(command, check=True)
    return {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(seconds)}
