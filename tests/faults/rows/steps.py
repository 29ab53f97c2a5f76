"""Row 65: whatever comes in whatever order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from shared.settings import ROOT
from tests.faults.ground import Ground
from tests.faults.row import Figures, Promise, Row

EXAMPLES = 20
_TEST = "tests/integration/test_state_machine.py"


def state_machine(ground: Ground, _: int) -> Figures:
    """Row 65."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", "--timeout=0", _TEST]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "FAULT_EXAMPLES": str(EXAMPLES)},
        capture_output=True,
        text=True,
        check=False,
    )
    Path(ground.folder / "state-machine.log").write_text(done.stdout + done.stderr)
    counted = re.search(r"state machine: (\d+) examples, (\d+) steps", done.stdout)
    assert done.returncode == 0, done.stdout[-1500:]
    assert counted, "it does not say how much it did"
    return {"falsifying": 0, "examples": -int(counted[1]), "steps": -int(counted[2])}


ROWS = (
    Row(
        number=65,
        fault="anything, in any order",
        done=f"Hypothesis: in each run {EXAMPLES} examples of up to 50 steps of create, delete, "
        "engine killed, worker killed, Redis paused, queue flushed, doorbell doubled, clock",
        promise="the invariants hold after each step",
        figures=(
            Promise(name="falsifying", at_most=0),
            Promise(name="examples", at_most=-EXAMPLES),
            Promise(name="steps", at_most=-10 * EXAMPLES),
        ),
        run=state_machine,
        runs=10,
    ),
)
