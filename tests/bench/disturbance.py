"""How quiet the machine was: what other programs and other machines of the host took meanwhile."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from tests.bench.processes import Program, cpu_seconds

_STOLEN = 7  # /proc/stat: user nice system idle iowait irq softirq steal
_BUSY = (0, 1, 2, 5, 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """Shares of the CPU time of all cores, from 0 to 1."""

    others: float  # what no process of the benchmark used
    stolen: float  # what the host gave to other machines


class Watch:
    """Watches from its creation on."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self._programs = programs
        self._begun = monotonic(), self._ours(), *_ticks()

    def disturbance(self) -> Disturbance:
        """Return what there was so far."""
        now = monotonic(), self._ours(), *_ticks()
        seconds, ours, busy, stolen = (b - a for a, b in zip(self._begun, now, strict=True))
        available = seconds * (os.cpu_count() or 1)
        return Disturbance(others=max(0.0, busy - ours) / available, stolen=stolen / available)

    def _ours(self) -> float:
        used = sum(cpu_seconds(program.pids()) for program in self._programs)
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            used += usage.ru_utime + usage.ru_stime
        return used


def _ticks() -> tuple[float, float]:
    """Return the busy and the stolen CPU time since boot, in seconds."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    seconds = [int(word) / os.sysconf("SC_CLK_TCK") for word in words]
    return sum(seconds[i] for i in _BUSY), seconds[_STOLEN]
