"""The command line: `python -m tests.faults [--rows 1-5,9] [--runs N] [--report FILE]`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.faults import report
from tests.faults.matrix import MATRIX
from tests.faults.results import Results, result_of
from tests.faults.running import run

EXIT_NOT_PASSED = 1
EXIT_INTERRUPTED = 128 + signal.SIGINT
KEPT = Path(".faults/results.json")


def main(argv: Sequence[str]) -> int:
    """Run what `argv` asks for; return 0 if every row that ran has passed."""
    words = parser().parse_args(argv)
    if words.list:
        for row in MATRIX.values():
            sys.stdout.write(f"{row.number:3} {row.fault}: {row.promise}\n")
        return 0
    results = Results.read(KEPT)
    rows = [MATRIX[number] for number in words.rows if number in MATRIX]
    passed, begun = True, time.monotonic()
    folder = words.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        for row, outcomes in run(rows, folder, words.runs, say):
            results.add(result_of(row, outcomes), more=words.more)
            results.write(KEPT)
            passed = passed and all(outcome.passed for outcome in outcomes)
            if words.report:
                report.write(words.report, results)
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    sys.stdout.write(report.table(results, [row.number for row in rows]))
    say(f"{len(rows)} rows in {(time.monotonic() - begun) / 60:.0f} minutes; logs are in {folder}")
    return 0 if passed else EXIT_NOT_PASSED


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    top.add_argument("--rows", type=_numbers, default=list(MATRIX), metavar="1-5,9")
    top.add_argument("--runs", type=int, metavar="N", help="of each row; else as many as it says")
    top.add_argument("--report", type=Path, metavar="FILE", help="docs/reliability.md")
    top.add_argument("--more", action="store_true", help="count these runs on top of those kept")
    top.add_argument("--keep", type=Path, metavar="FOLDER", help="for logs and state")
    top.add_argument("--list", action="store_true", help="say which rows there are")
    return top


def say(line: str) -> None:
    """Tell the person who waits."""
    sys.stderr.write(f"faults: {line}\n")
    sys.stderr.flush()


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


if __name__ == "__main__":
    # As Ctrl-C: what was started is ended too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
