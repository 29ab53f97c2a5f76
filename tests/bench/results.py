"""Measurements, their medians, and their ratios round by round. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median

_WORST = frozenset({"added_mib"})
_NO_RATIO = frozenset({"added_mib", "missed"})  # to nginx's nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One scenario on one target in one round."""

    scenario: str
    target: str
    round: int
    figures: Mapping[str, float] = field(default_factory=dict)  # empty if refused
    refused: str = ""  # why there is no number

    def figure(self, name: str) -> float | None:
        """Return a figure that was measured or that follows from those; None if it cannot."""
        given = self.figures.get(name)
        if given is not None:
            return given
        match name:
            case "cpu_us_per_answer":
                return self._per("cpu_s", "answers", 1e6)
            case "cpu_us_per_chunk":
                return self._per("cpu_s", "chunks", 1e6)
            case "added_mib":
                if "peak_mib" in self.figures:
                    return self.figures["peak_mib"] - self.figures["idle_mib"]
        return None

    def _per(self, what: str, each: str, factor: float) -> float | None:
        if what not in self.figures or not self.figures.get(each):
            return None
        return self.figures[what] / self.figures[each] * factor


class Results:
    """All measurements of a run."""

    def __init__(self, measurements: Iterable[Measurement] = ()) -> None:
        self._all = list(measurements)

    def add(self, measurement: Measurement) -> None:
        """Take one more."""
        self._all.append(measurement)

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self._all)

    def of(self, scenario: str, target: str) -> list[Measurement]:
        """Return the rounds of one scenario on one target."""
        return [m for m in self._all if (m.scenario, m.target) == (scenario, target)]

    def refusals(self, scenario: str, target: str) -> list[str]:
        """Return why rounds gave no number."""
        return [m.refused for m in self.of(scenario, target) if m.refused]

    def missed(self, scenario: str, target: str) -> bool:
        """Tell whether the engine ever did not notice that a caller had left."""
        return any(m.figure("missed") for m in self.of(scenario, target))

    def value(self, scenario: str, target: str, figure: str) -> float | None:
        """Return the median over all rounds, of memory the most.

        None if one round was refused, or none was measured.
        """
        if self.refusals(scenario, target):
            return None
        found = [m.figure(figure) for m in self.of(scenario, target)]
        values = [value for value in found if value is not None]
        # What a program took in one round and kept, it need not take again in the next.
        of_all = max if figure in _WORST else median
        return of_all(values) if values else None

    def ratio(self, scenario: str, target: str, base: str, figure: str) -> float | None:
        """Return the median of the ratios to `base` in the same round; None as for `value`."""
        refused = self.refusals(scenario, target) or self.refusals(scenario, base)
        if refused or figure in _NO_RATIO:
            return None
        bases = {m.round: m.figure(figure) for m in self.of(scenario, base)}
        ratios = [
            mine / theirs
            for m in self.of(scenario, target)
            if (mine := m.figure(figure)) is not None and (theirs := bases.get(m.round))
        ]
        return median(ratios) if ratios else None
