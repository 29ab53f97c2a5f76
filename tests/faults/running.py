"""Run rows: each on its ground, watched, with the invariants checked afterwards."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.faults.ground import Ground, Setup, ground
from tests.faults.invariants import violations
from tests.faults.row import Outcome, Row, broken
from tests.faults.watch import watching

Say = Callable[[str], None]


def run(
    rows: Iterable[Row], folder: Path, runs: int | None, say: Say
) -> Iterator[tuple[Row, list[Outcome]]]:
    """Run `rows`, those on the same ground together; yield each with its outcomes.

    Args:
        rows: to be run.
        folder: for everything that the fleets leave behind.
        runs: of each row; None: as many as it says.
        say: tells the person who waits.
    """
    by_setup: dict[Setup, list[Row]] = {}
    for row in rows:
        by_setup.setdefault(row.setup, []).append(row)
    grounds = Grounds(folder)
    try:
        for setup, together in by_setup.items():
            for row in together:
                yield row, [_run_once(row, n, grounds, say) for n in range(runs or row.runs)]
            grounds.throw_away(setup)
    finally:
        grounds.close()


class Grounds:
    """The ground that rows stand on now: kept while it is well and the next row fits on it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = 0
        self._stands: tuple[Setup, Ground, ExitStack] | None = None

    def get(self, setup: Setup) -> Ground:
        """Return a ground that is well."""
        if self._stands and self._stands[0] != setup:
            self.close()
        if not self._stands:
            stack = ExitStack()
            self._made += 1
            made = stack.enter_context(ground(self._folder / f"ground-{self._made}", setup))
            self._stands = (setup, made, stack)
        return self._stands[1]

    def throw_away(self, setup: Setup) -> None:
        """Forget the ground for `setup`: it may not be well."""
        if self._stands and self._stands[0] == setup:
            self.close()

    def close(self) -> None:
        """End what stands."""
        if self._stands:
            stands, self._stands = self._stands, None
            stands[2].close()


def once(row: Row, stands: Ground, number: int = 0, *, timed: bool = True) -> Outcome:
    """Run `row` once on a ground that is well; say what is not as promised.

    Args:
        row: to be run.
        stands: the ground.
        number: of the run, from 0 on: some rows do things by turns.
        timed: whether what is promised in seconds counts.

    Raises:
        Exception: whatever the row raised; the ground may not be well.
    """
    with watching(stands) as watch:
        figures = row.run(stands, number)
    found = violations(stands, watch, timed=timed)
    excused = [one for one in found if row.excused and one.startswith(row.excused)]
    why = broken(row, figures, timed=timed) + [one for one in found if one not in excused]
    stands.heal()
    return Outcome(figures=figures, why="; ".join(why))


def _run_once(row: Row, number: int, grounds: Grounds, say: Say) -> Outcome:
    try:
        outcome = once(row, grounds.get(row.setup), number)
    except Exception as error:  # noqa: BLE001 - the next row stands on new ground
        outcome = Outcome(figures={}, why=_reason(error))
        sys.stderr.write(traceback.format_exc())
    if not outcome.passed:
        grounds.throw_away(row.setup)
    shown = ", ".join(f"{name} {value:.3g}" for name, value in outcome.figures.items())
    say(f"row {row.number} run {number + 1}: {outcome.why or 'passed'} ({shown})")
    return outcome


def _reason(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return " ".join(text.split())[:300]
