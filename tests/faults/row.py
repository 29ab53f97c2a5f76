"""One row of the matrix, as data: what is done to the fleet, what is promised and measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.faults.ground import Ground, Setup

Figures = Mapping[str, float]
"""What one run measured, by the name of the promise that it answers."""

Run = Callable[[Ground, int], Figures]
"""Does it once, on a fleet that is well; raises AssertionError, saying what is not as promised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A figure and the most it may be, in every run."""

    name: str
    at_most: float
    unit: str = ""  # "s", "%", "" for a count


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault."""

    number: int
    fault: str
    done: str  # how it is brought about
    promise: str  # in words
    figures: tuple[Promise, ...]
    run: Run
    runs: int = 5
    short: bool = False  # `make test` runs it once, too
    setup: Setup = field(default_factory=Setup)
    excused: str = ""  # the invariant that its own doing breaks, as "I8"
    scaled: str = ""  # what is shorter here than as shipped, so that a run ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run of a row gave."""

    figures: Figures
    why: str = ""  # what is not as promised; "" if all is

    @property
    def passed(self) -> bool:
        """Whether the promise was kept."""
        return not self.why


def broken(row: Row, figures: Figures, *, timed: bool) -> list[str]:
    """Return each figure that is over its bound or was not measured, in words.

    Args:
        row: whose promises.
        figures: of one run.
        timed: whether seconds count: on a machine that others use they say nothing.
    """
    found = []
    for promise in row.figures:
        value = figures.get(promise.name)
        if value is None:
            found.append(f"{promise.name}: not measured")
        elif value > promise.at_most and (timed or not promise.unit):
            found.append(
                f"{promise.name}: {value:.3g} > {promise.at_most:g} {promise.unit}".strip()
            )
    return found
