"""The command line: `python -m tests.bench.lifecycle [--runs N] [--real N] [--report FILE]`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, repeat
from pathlib import Path

from tests.bench import versions
from tests.bench.disturbance import Watch
from tests.bench.errors import BenchError
from tests.bench.lifecycle import report, scenes
from tests.bench.lifecycle.fleet import Engines, MeasuredFleet, measured_fleet, real, standin

EXIT_FAILED = 1
_ADOPTIONS = 3
_SCENES = ("life", "crash", "adoption", "idle")

Found = dict[str, list[float]]


def main(argv: Sequence[str]) -> int:
    """Measure what `argv` asks for and return the exit status."""
    words = _parser().parse_args(argv)
    began = time.monotonic()
    watch, load = Watch([]), os.getloadavg()[0]
    found: dict[str, Found] = {}
    refused: list[str] = []  # scenes
    try:
        with tempfile.TemporaryDirectory(prefix="lifecycle-") as folder:
            if words.runs:
                found["stand-in"] = _measured(
                    standin(), Path(folder) / "a", words.runs, words.scenes, refused
                )
            if words.real:
                wanted = [scene for scene in words.scenes if scene in ("life", "crash")]
                found["vLLM"] = _measured(real(), Path(folder) / "b", words.real, wanted, refused)
    except BenchError as error:
        _say(str(error))
        return EXIT_FAILED
    sys.stdout.write(report.summary(found))
    if words.report is not None:
        circumstances = report.Circumstances(
            date=time.strftime("%Y-%m-%d"),
            minutes=(time.monotonic() - began) / 60,
            stolen=watch.disturbance().stolen,
            load=load,
            machine=versions.of_machine(),
            versions=versions.of_programs({}),
        )
        previous = words.report.read_text() if words.report.exists() else "# Performance\n"
        section = report.section(found, circumstances)
        words.report.write_text(report.replaced(previous, section))
        _say(f"written: {words.report}")
    return EXIT_FAILED if refused else 0


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m tests.bench.lifecycle", description=__doc__)
    top.add_argument("--runs", type=int, default=20, metavar="N", help="on the stand-in")
    top.add_argument("--real", type=int, default=3, metavar="N", help="on real vLLM; 0: not at all")
    top.add_argument("--scenes", type=lambda text: text.split(","), default=list(_SCENES))
    top.add_argument("--report", type=Path, metavar="FILE", help="docs/performance.md")
    return top


def _measured(
    engines: Engines, folder: Path, runs: int, wanted: Sequence[str], refused: list[str]
) -> Found:
    found: Found = {}
    with measured_fleet(engines, folder) as fleet:
        many: dict[str, tuple[int, Callable[[MeasuredFleet], Iterable[scenes.Seconds]]]] = {
            "life": (runs, lambda fleet: map(scenes.life, repeat(fleet))),
            "crash": (max(1, runs // 2), lambda fleet: map(scenes.crash, repeat(fleet))),
            "adoption": (_ADOPTIONS, scenes.adoption),
            "idle": (1, lambda fleet: map(scenes.idle, repeat(fleet))),
        }
        for name in wanted:
            times, measure = many[name]
            _say(f"{engines.name}: {name}, {times} times")
            try:
                for seconds in islice(measure(fleet), times):
                    for figure, value in seconds.items():
                        found.setdefault(figure, []).append(value)
            except BenchError as error:  # the other scenes have their figures all the same
                _say(f"{engines.name}: {name}: {error}")
                refused.append(name)
    return found


def _say(line: str) -> None:
    sys.stderr.write(f"lifecycle: {line}\n")


if __name__ == "__main__":
    # As Ctrl-C: what was started is ended too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
