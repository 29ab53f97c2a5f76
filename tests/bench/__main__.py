"""The command line: `python -m tests.bench [--targets ...] [--scenarios ...] [--rounds N]`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench import peers, report, scenarios, summary, targets, versions
from tests.bench.errors import BenchError
from tests.bench.lifecycle import report as lifecycle
from tests.bench.results import Results
from tests.bench.rounds import run

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT


def main(argv: Sequence[str]) -> int:
    """Run what `argv` asks for and return the exit status."""
    words = parser().parse_args(argv)
    try:
        chosen = [targets.BY_NAME[name] for name in words.targets.split(",")]
        wanted = [scenarios.BY_NAME[name] for name in words.scenarios.split(",")]
    except KeyError as error:
        say(f"no target or scenario is called {error}; known: {', '.join(_known())}")
        return EXIT_USAGE
    try:
        found = peers.provide({target.name for target in chosen})
        begun = time.monotonic()
        results, disturbance = run(
            chosen, wanted, words.rounds, found, say=say, profiles=words.profile
        )
    except BenchError as error:
        say(str(error))
        return EXIT_FAILED
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    sys.stdout.write(summary.text(results))
    if words.report is not None:
        circumstances = report.Circumstances(
            date=time.strftime("%Y-%m-%d"),
            rounds=words.rounds,
            minutes=(time.monotonic() - begun) / 60,
            disturbance=disturbance,
            machine=versions.of_machine(),
            versions=versions.of_programs(found),
        )
        write(words.report, results, circumstances)
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    top.add_argument("--targets", default=",".join(targets.BY_NAME), metavar="NAME,...")
    top.add_argument("--scenarios", default=",".join(scenarios.BY_NAME), metavar="NAME,...")
    top.add_argument("--rounds", type=int, default=5, choices=range(1, 51), metavar="1..50")
    exclusive = top.add_mutually_exclusive_group()  # what is profiled is slower than it is
    exclusive.add_argument("--report", type=Path, metavar="FILE", help="docs/performance.md")
    exclusive.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="for `perf report -i`: one of the last round"
    )
    return top


def write(path: Path, results: Results, circumstances: report.Circumstances) -> None:
    """Write the report to `path`, and keep what somebody wrote into it."""
    previous = path.read_text() if path.exists() else ""
    by_hand, section = report.by_hand(previous), lifecycle.kept(previous)
    path.write_text(report.text(results, circumstances, by_hand, section))
    say(f"written: {path}")


def say(line: str) -> None:
    """Tell the person who waits."""
    sys.stderr.write(f"bench: {line}\n")


def _known() -> list[str]:
    return [*targets.BY_NAME, *scenarios.BY_NAME]


if __name__ == "__main__":
    # As Ctrl-C: what was started is ended too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
