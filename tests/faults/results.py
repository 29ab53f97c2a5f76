"""What rows gave when they last ran, kept between runs so that the table can be of all of them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from shared.settings import ROOT
from tests.faults.row import Outcome, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row, as it last ran."""

    number: int
    runs: int
    passed: int
    figures: dict[str, tuple[float, ...]]  # of each run that measured it
    why: tuple[str, ...]  # what was not as promised
    date: str
    commit: str


@dataclass(slots=True)
class Results:
    """The last result of each row."""

    by_number: dict[int, Result] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what `path` holds; nothing if it is not there."""
        if not path.exists():
            return cls()
        kept = [
            Result(
                **{
                    **one,
                    "figures": {name: tuple(value) for name, value in one["figures"].items()},
                    "why": tuple(one["why"]),
                }
            )
            for one in json.loads(path.read_text())
        ]
        return cls({result.number: result for result in kept})

    def add(self, result: Result, *, more: bool) -> None:
        """Keep a result instead of the one before, or with `more` on top of it."""
        before = self.by_number.get(result.number) if more else None
        self.by_number[result.number] = _together(before, result) if before else result

    def write(self, path: Path) -> None:
        """Replace what `path` holds."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([asdict(one) for one in self.by_number.values()], indent=1))


def result_of(row: Row, outcomes: Sequence[Outcome]) -> Result:
    """Return what the runs of `row` gave."""
    figures = {
        promise.name: tuple(o.figures[promise.name] for o in outcomes if promise.name in o.figures)
        for promise in row.figures
    }
    return Result(
        number=row.number,
        runs=len(outcomes),
        passed=sum(outcome.passed for outcome in outcomes),
        figures=figures,
        why=tuple(dict.fromkeys(o.why for o in outcomes if o.why)),
        date=time.strftime("%Y-%m-%d"),
        commit=_commit(),
    )


def _together(before: Result, after: Result) -> Result:
    return replace(
        after,
        runs=before.runs + after.runs,
        passed=before.passed + after.passed,
        figures={
            name: (*before.figures.get(name, ()), *values) for name, values in after.figures.items()
        },
        why=tuple(dict.fromkeys(before.why + after.why)),
    )


def _commit() -> str:
    words = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no commit"
