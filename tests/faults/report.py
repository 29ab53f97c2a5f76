"""docs/reliability.md: the table as last run, and what somebody wrote beside it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

from shared.embedded_redis import server_program
from tests.faults.matrix import MATRIX, PROMISED
from tests.faults.results import Result, Results
from tests.faults.row import Promise, Row

BEGIN, END = "<!-- table: written by make faults -->", "<!-- end of table -->"
_TABLE = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
_PROGRAMS = ("celery", "kombu", "redis", "gunicorn", "flask", "hypothesis")
_WHY_CHARS = 160


def write(path: Path, results: Results) -> None:
    """Replace the table in `path`; the words around it stay."""
    text = path.read_text()
    written = f"{BEGIN}\n\n{_all(results)}\n\n{_versions()}\n\n{END}"
    path.write_text(_TABLE.sub(lambda _: written, text))


def table(results: Results, numbers: Sequence[int]) -> str:
    """Return the rows with these numbers, and what was not as promised."""
    head = ["#", "fault", "how", "promise", "runs", "passed", "figures: p50, max (promised)", "at"]
    lines = [head, ["---"] * len(head)]
    lines += [_row(number, results.by_number.get(number)) for number in numbers]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    failed = [
        f"- {number}: {_shortened(why)}"
        for number in numbers
        if (result := results.by_number.get(number))
        for why in result.why
    ]
    return text + ("\n\nNot as promised:\n\n" + "\n".join(failed) if failed else "") + "\n"


def _all(results: Results) -> str:
    kept = [n for n in sorted(PROMISED) if _kept(results.by_number.get(n))]
    said = f"{len(kept)} of {len(PROMISED)} rows passed when they last ran."
    return f"{said}\n\n{table(results, sorted(PROMISED)).strip()}"


def _kept(result: Result | None) -> bool:
    return result is not None and result.passed == result.runs


def _row(number: int, result: Result | None) -> list[str]:
    row = MATRIX.get(number)
    if row is None:
        return [str(number), "not written", "", "", "", "**no**", "", ""]
    said = [str(number), row.fault, _done(row), row.promise]
    if result is None:
        return [*said, "0", "**not run**", "", ""]
    passed = str(result.passed) if _kept(result) else f"**{result.passed}**"
    figures = "; ".join(_figure(promise, result) for promise in row.figures)
    return [*said, str(result.runs), passed, figures, result.commit]


def _done(row: Row) -> str:
    return f"{row.done} ({row.scaled})" if row.scaled else row.done


def _figure(promise: Promise, result: Result) -> str:
    unit = f" {promise.unit}" if promise.unit else ""
    measured = result.figures.get(promise.name)
    if promise.at_most < 0:  # a number of things that had to be done
        return f"{promise.name} {-sum(measured):g}" if measured else f"{promise.name}: none"
    if not measured:
        return f"{promise.name}: not measured"
    shown = f"{median(measured):.3g}, {max(measured):.3g}"
    return f"{promise.name} {shown} (≤ {promise.at_most:g}{unit})"


def _shortened(why: str) -> str:
    return why if len(why) <= _WHY_CHARS else f"{why[:_WHY_CHARS]} ..."


def _versions() -> str:
    server = subprocess.run(
        [str(server_program()), "--version"], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"v=(\S+)", server)
    versions = {
        "Python": platform.python_version(),
        **{name: version(name) for name in _PROGRAMS},
        "redis-server": found[1] if found else "unknown",
        "kernel": f"{platform.system()} {platform.release()}",
    }
    named = ", ".join(f"{name} {value}" for name, value in versions.items())
    return f"Versions: {named}; {os.cpu_count()} cores; engines: tests/standin."
