"""What is promised of the fleet's lifecycle, and whether a run kept it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Samples = Mapping[str, Sequence[float]]  # figure → one number per run


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One line of the promise."""

    work: str
    figure: str
    most: float
    p50: bool = False  # the promise is of the median; otherwise of every run
    unit: str = "ms"

    def verdict(self, samples: Sequence[float]) -> str:
        """Return whether it was kept."""
        if max(samples) <= self.most or (self.p50 and median(samples) <= self.most):
            return "kept"
        return "**at p50 only**" if median(samples) <= self.most else "**missed**"

    def show(self, value: float) -> str:
        """Return a value in the goal's unit."""
        return shown(value, self.unit)


def shown(value: float, unit: str) -> str:
    """Return seconds, or a share of a core, in `unit`."""
    match unit:
        case "ms":
            return f"{value * 1000:.0f} ms"
        case "s":
            return f"{value:.2f} s"
    return f"{value:.2%}"


GOALS = (
    Goal(work="POST accepted → process spawned", figure="spawn", most=0.15, p50=True),
    Goal(
        work="engine ready → `running`, and routed in every web process",
        figure="routed",
        most=0.25,
    ),
    Goal(
        work="create → first token, added to the engine's own start",
        figure="first_token_added",
        most=0.5,
    ),
    Goal(
        work="DELETE → verified gone, more than SIGTERM by hand",
        figure="delete_added",
        most=0.5,
    ),
    Goal(work="engine killed → callers are refused", figure="refused", most=0.5),
    Goal(work="the slowest answer after that", figure="slowest_answer", most=0.5),
    Goal(work="engine killed → `backoff` in the record", figure="backoff", most=0.5),
    Goal(
        work="worker started again → 20 engines adopted, same processes",
        figure="adopted",
        most=3.0,
        unit="s",
    ),
    Goal(
        work="20 idle instances: all our processes, of one core",
        figure="idle",
        most=0.02,
        unit="%",
    ),
)
ASIDE = (
    ("create → first token", "first_token"),
    ("the same by hand", "first_token_by_hand"),
    ("of which the engine's own start, spawned → healthy", "start"),
    ("the same by hand", "start_by_hand"),
    ("CPU time that our processes took meanwhile", "start_cpu"),
    ("DELETE → verified gone", "delete"),
    ("SIGTERM by hand → nothing left", "term_by_hand"),
)
