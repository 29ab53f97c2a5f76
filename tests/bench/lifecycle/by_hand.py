"""The very command of an instance, with its very environment, started and ended without us.

But for our marks: an engine that has them and whose record says ended is ended by its node.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from tests.bench.lifecycle.watching import Place, when
from tests.bench.processes import in_session
from workers.process_tree import ID_MARK, RUN_DIR_MARK


@dataclass(frozen=True, slots=True, kw_only=True)
class ByHand:
    """What it took, in seconds."""

    start: float  # from the spawn until its /health is 200
    token: float  # from then to a first token
    term: float  # from SIGTERM to its first process until nothing of its session is left


def by_hand(launch: Mapping[str, object], model: str, folder: Path, timeout_s: float) -> ByHand:
    """Run the command of a launch.json once more, at the port that it had.

    Raises:
        BenchError: no token came, or it did not end.
    """
    command, env = launch["command"], launch["env"]
    assert isinstance(command, list)
    assert isinstance(env, dict)
    unmarked = {name: value for name, value in env.items() if name not in (ID_MARK, RUN_DIR_MARK)}
    place = Place(str(launch["url"]), str(launch["key"]), model)
    with (folder / "by-hand.log").open("wb") as output:
        began = monotonic()
        engine = subprocess.Popen(
            command,
            env=unmarked,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        ready_at = when(place.healthy, timeout_s, what=f"health by hand: {command}")
        token_at = when(place.first_token, timeout_s, what=f"a token by hand: {command}")
        told_at = monotonic()
        engine.send_signal(signal.SIGTERM)
        gone_at = when(
            lambda: engine.poll() is not None and not in_session(engine.pid),
            timeout_s,
            what="the end after SIGTERM by hand",
        )
        return ByHand(start=ready_at - began, token=token_at - ready_at, term=gone_at - told_at)
    finally:
        for pid in in_session(engine.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        engine.wait()
