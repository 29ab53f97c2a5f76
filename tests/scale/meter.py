"""How long calls take: each by its name, in seconds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import TypeVar

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Times:
    """What calls of one name took."""

    count: int
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        """Return them; at least one."""
        taken = sorted(seconds)
        last = len(taken) - 1
        return cls(len(taken), taken[round(0.5 * last)] * 1e3, taken[round(0.99 * last)] * 1e3)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a process measured."""

    taken: Mapping[str, Sequence[float]]  # seconds, by the name of what was called
    cpu_s: float  # of the process


class Meter:
    """Remembers what calls took; any thread may tell it."""

    def __init__(self) -> None:
        self._taken: dict[str, list[float]] = defaultdict(list)
        self._cpu_from = process_time()

    def time(self, name: str, call: Callable[[], R]) -> R:
        """Call it and remember how long it took."""
        begun = perf_counter()
        try:
            return call()
        finally:
            self._taken[name].append(perf_counter() - begun)

    def forget(self) -> None:
        """Begin anew: what was called so far was warming up."""
        self._taken = defaultdict(list)
        self._cpu_from = process_time()

    def measured(self) -> Measured:
        """Return what was measured since it began."""
        return Measured(dict(self._taken), process_time() - self._cpu_from)
