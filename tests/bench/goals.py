"""What is promised of our speed, what is hoped for, and whether a run kept it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tests.bench.results import Results

OURS = "ours"
BY_MODEL = "ours_v1"
BASE = "nginx"

_SMALL = 0.1


class Kind(StrEnum):
    """What is compared with the goal."""

    RATIO = "ratio"  # to the base in the same round
    VALUE = "value"  # the median itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One line of the promise."""

    work: str
    scenario: str
    figure: str
    kind: Kind = Kind.RATIO
    goal: float
    least: bool = False  # the goal is the least that will do; otherwise the most
    hoped: float | None = None
    factor: float = 1.0  # from the figure's unit to the one shown
    unit: str = "x"
    target: str = OURS
    base: str = BASE

    def measured(self, results: Results, target: str) -> float | None:
        """Return what `target` reached, as it is shown; None: no number."""
        if results.missed(self.scenario, target):
            return None  # the times of only those that were noticed at all would flatter
        if self.kind is Kind.RATIO:
            found = results.ratio(self.scenario, target, self.base, self.figure)
        else:
            found = results.value(self.scenario, target, self.figure)
        return None if found is None else found * self.factor

    def kept(self, value: float) -> bool:
        """Tell whether `value`, to the two digits that are shown, keeps the promise."""
        shown = round(value, 2)
        return shown >= self.goal if self.least else shown <= self.goal

    def show(self, value: float | None) -> str:
        """Return a value with its unit: two digits, three where those would say nothing."""
        if value is None:
            return ""
        return f"{value:.{3 if 0 < value < _SMALL else 2}f} {self.unit}"

    @property
    def says(self) -> str:
        """The promise, in a table's cell."""
        return f"{'≥' if self.least else '≤'} {self.goal:g} {self.unit}"


def _value(work: str, scenario: str, figure: str, goal: float, **more: object) -> Goal:
    return Goal(
        work=work,
        scenario=scenario,
        figure=figure,
        kind=Kind.VALUE,
        goal=goal,
        **more,  # type: ignore[arg-type]
    )


def _gone(case: str, scenario: str) -> Goal:
    work = f"caller gone, {case}: until the engine's socket is closed"
    return _value(work, scenario, "gone_p50", 2, factor=1e-3, unit="ms")


def _by_model(work: str, scenario: str, figure: str, goal: float, **more: object) -> Goal:
    return Goal(
        work=f"{work}, at `/v1` against `/proxy`",
        scenario=scenario,
        figure=figure,
        goal=goal,
        hoped=1.0,
        target=BY_MODEL,
        base=OURS,
        **more,  # type: ignore[arg-type]
    )


_RATE, _CHUNK_CPU = "answers_per_s", "cpu_us_per_chunk"

GOALS: tuple[Goal, ...] = (
    Goal(work="small JSON, 16 connections: requests/s", scenario="json16", figure=_RATE,
         goal=0.65, least=True, hoped=1.0),
    Goal(work="small JSON, 64 connections: requests/s", scenario="json64", figure=_RATE,
         goal=0.65, least=True, hoped=1.0),
    Goal(work="small JSON, one connection: latency p50", scenario="json1", figure="latency_p50",
         goal=1.25, hoped=1.0),
    Goal(work="16 SSE streams: CPU per chunk", scenario="sse16", figure=_CHUNK_CPU,
         goal=1.4, hoped=1.0),
    Goal(work="512 SSE streams: chunks/s", scenario="sse512", figure="chunks_per_s",
         goal=1.0, least=True, hoped=1.0),
    Goal(work="512 SSE streams: CPU per chunk", scenario="sse512", figure=_CHUNK_CPU,
         goal=1.1, hoped=1.0),
    _value("512 SSE streams: delay p50, engine's write to caller's read", "sse512", "delay_p50",
           0.5, hoped=0.2, factor=1e-3, unit="ms"),
    Goal(work="1 MiB uploads: requests/s", scenario="up1m", figure=_RATE, goal=1.0, least=True),
    Goal(work="8 MiB downloads: requests/s", scenario="down8m", figure=_RATE, goal=2.0, least=True),
    _value("memory added by 512 SSE streams", "sse512", "added_mib", 8, hoped=0, unit="MiB"),
    _value("memory added by 128 MiB downloads", "down128m", "added_mib", 8, hoped=0, unit="MiB"),
    _value("memory added by 32 MiB uploads", "up32m", "added_mib", 8, hoped=0, unit="MiB"),
    _gone("tokens flowing", "gone_flowing"),
    _gone("silent in prefill", "gone_prefill"),
    _gone("not streamed", "gone_json"),
    _by_model("small JSON, 16 connections: requests/s", "json16", _RATE, 0.75, least=True),
    _by_model("16 SSE streams: CPU per chunk", "sse16", _CHUNK_CPU, 1.2),
    _by_model("512 SSE streams: CPU per chunk", "sse512", _CHUNK_CPU, 1.1),
    Goal(work="2 web processes against 1: CPU per request", scenario="scale_json",
         figure="cpu_us_per_answer", goal=1.05, hoped=1.0,
         target="two_processes", base="one_process"),
)  # fmt: skip
"""Every line of the promise; ratios are to nginx where nothing else is said."""
