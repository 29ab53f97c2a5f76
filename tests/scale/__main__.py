"""The command line: `python -m tests.scale [--nodes 10,100,1000] [--seconds 60] ...`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench import versions
from tests.redis_server import running_redis
from tests.scale import report
from tests.scale.alone import REPEATS, alone
from tests.scale.fleet import Fleet
from tests.scale.together import together

EXIT_NOT_AS_IT_MUST_BE = 1


def main(argv: Sequence[str]) -> int:
    """Run what `argv` asks for and return the exit status."""
    words = parser().parse_args(argv)
    runs = []
    for nodes in map(int, words.nodes.split(",")):
        fleet = Fleet(nodes)
        say(f"{nodes} nodes, {nodes * fleet.instances} instances: each operation alone")
        with tempfile.TemporaryDirectory(prefix="scale-") as made:
            folder = Path(made)
            with running_redis(folder / "alone") as url:
                costs = alone(url, fleet, repeats=words.repeats)
            at_once = None
            if words.seconds > 0:
                say(f"{nodes} nodes: all at once, for {words.seconds:g} s")
                at_once = together(
                    folder / "together", fleet, seconds=words.seconds, churn=words.churn
                )
        runs.append(
            report.Run(
                nodes=nodes, instances=nodes * fleet.instances, alone=costs, together=at_once
            )
        )
    circumstances = report.Circumstances(
        date=time.strftime("%Y-%m-%d"),
        churn=words.churn,
        machine=versions.of_machine(),
        versions=versions.of_programs({}),
    )
    section = report.section(runs, circumstances)
    sys.stdout.write(f"{section}\n")
    if words.report is not None:
        words.report.write_text(report.with_section(words.report.read_text(), section))
        say(f"written: {words.report}")
    return EXIT_NOT_AS_IT_MUST_BE if report.faults(runs) else 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__)
    top.add_argument("--nodes", default="10,100,1000", metavar="N,...", help="smallest first")
    top.add_argument("--seconds", type=float, default=60.0, help="all at once; 0: not at all")
    top.add_argument("--churn", type=float, default=50.0, help="created and deleted in a second")
    top.add_argument("--repeats", type=int, default=REPEATS, help="of each operation alone")
    top.add_argument("--report", type=Path, metavar="FILE", help="docs/scaling.md")
    return top


def say(line: str) -> None:
    """Tell the person who waits."""
    sys.stderr.write(f"scale: {line}\n")


if __name__ == "__main__":
    # As Ctrl-C: what was started is ended too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
