"""When a start will be ready, judged by earlier starts of the same kind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

STARTS_KEPT = 10
"""Per kind, newest: enough for a median, few enough to follow a change of the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastStart:
    """One start that became ready. Times are seconds since its spawn."""

    seconds: float  # when it was ready
    stages: Mapping[str, float] = field(default_factory=dict)  # stage → when it began


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How far a start has come."""

    stage: str
    progress: float | None  # of the stage, 0 to 1
    at: float  # when it came so far, seconds since its spawn


def kind_of_start(model_name: str, params: Mapping[str, object], devices: Sequence[str]) -> str:
    """Return a short name of what is started on what, equal for starts that take equally long.

    Args:
        model_name: as asked.
        params: all start parameters, merged.
        devices: kind of each device it runs on: names of GPU models, or of the processor.
    """
    told = json.dumps([model_name, params, sorted(devices)], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:24]


def expected_seconds(past: Collection[PastStart], reached: Reached, elapsed: float) -> float | None:
    """Return how many seconds after its spawn a start will be ready, or None if nobody can say.

    The median of those past starts that took longer from where this one is than it already has:
    one that takes longer than any before it has no expected end, rather than one in the past.

    Args:
        past: ready starts of the same kind.
        reached: how far this one is.
        elapsed: seconds since its spawn.
    """
    waited = elapsed - reached.at
    left = [seconds for start in past if (seconds := _left(start, reached)) > waited]
    return reached.at + median(left) if left else None


def _left(start: PastStart, reached: Reached) -> float:
    """Return how long a past start took from where `reached` is to ready."""
    if reached.stage not in start.stages:
        return start.seconds - reached.at
    times = [*sorted(start.stages.values()), start.seconds]
    began = start.stages[reached.stage]
    ended = next((end for begin, end in pairwise(times) if begin == began), start.seconds)
    return start.seconds - began - (reached.progress or 0.0) * (ended - began)
