"""The lifecycle's section of docs/performance.md, and where it stands in the file. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.lifecycle.goals import ASIDE, GOALS, Samples, shown

BEGIN = "<!-- lifecycle: written by `make bench` -->"
END = "<!-- end of lifecycle -->"
_SECTION = re.compile(f"{re.escape(BEGIN)}\n(.*?){re.escape(END)}\n", re.DOTALL)
_IDLE = "idle_"

_CAVEATS = """\
- By hand: the very command and environment (but for our marks) of the instance, from its
  launch.json, started and signalled by the benchmark itself, right after the instance was deleted;
  the two are subtracted run by run. Until an engine is ready only itself is asked, every 10 ms, in
  both.
- Added to the engine's own start: create → spawned, and ready → first token less the same by hand.
  What lies between is vLLM's own and varies by seconds from start to start, so that the difference
  of two says little; both stand below, with the CPU time that our processes took meanwhile: they
  cannot have held it up for longer than that.
- An engine is ready once its own /health says so. Each web process is asked by itself.
- Deleted right after its first token, when whoever asked for that has left.
- Adopted: the new worker holds a pidfd of every engine; pid, start time and restarts in the records
  are the same as before. From the start of its interpreter.
- Idle: CPU time by the kernel's clock over 60 s; two web processes of one gunicorn each, worker,
  beat, Flower, Redis and the shims; not the engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What else the section says about a run."""

    date: str
    minutes: float
    stolen: float  # CPU time that the host gave to other machines, of all
    load: float  # the machine's load average before
    machine: Mapping[str, str]
    versions: Mapping[str, str]


def section(found: Mapping[str, Samples], of: Circumstances) -> str:
    """Return the section, marks and all.

    Args:
        found: engine → what was measured on it.
        of: when, where and how it ran.
    """
    parts = [
        "## Start, stop, crash",
        f"What the fleet adds to an engine's own life. Measured on {of.date}.",
        _table(
            ["", "engine", "promised", "p50", "max", "runs", ""],
            [
                _goal_row(goal.figure, engine, samples)
                for goal in GOALS
                for engine, samples in found.items()
                if samples.get(goal.figure)
            ],
        ),
        "For comparison:",
        _table(
            ["", "engine", "p50", "max", "runs"],
            [
                [work, engine, *_spread(samples[figure], "s")]
                for work, figure in ASIDE
                for engine, samples in found.items()
                if samples.get(figure)
            ],
        ),
        *_idle(found),
        f"{_CAVEATS}\n{_how(of)}",
    ]
    return f"{BEGIN}\n" + "\n\n".join(parts) + f"\n{END}\n"


def kept(previous: str) -> str:
    """Return the section as it stands in `previous`, marks and all; "" if it has none."""
    found = _SECTION.search(previous)
    return found[0] if found else ""


def replaced(previous: str, new: str) -> str:
    """Return `previous` with the section replaced, or added at its end."""
    if _SECTION.search(previous):
        return _SECTION.sub(lambda _: new, previous, count=1)
    return f"{previous.rstrip()}\n\n{new}"


def summary(found: Mapping[str, Samples]) -> str:
    """Return every figure, for a terminal."""
    lines = [
        f"{engine:10} {name:22} p50 {median(values):8.4f}  max {max(values):8.4f} of {len(values)}"
        for engine, samples in found.items()
        for name, values in samples.items()
    ]
    return "\n".join(lines) + "\n"


def _goal_row(figure: str, engine: str, samples: Samples) -> list[str]:
    goal = next(goal for goal in GOALS if goal.figure == figure)
    values = samples[figure]
    promised = f"≤ {goal.show(goal.most)}{' p50' if goal.p50 else ''}"
    return [goal.work, engine, promised, *_spread(values, goal.unit), goal.verdict(values)]


def _spread(values: Sequence[float], unit: str) -> list[str]:
    return [shown(median(values), unit), shown(max(values), unit), str(len(values))]


def _how(of: Circumstances) -> str:
    machine = "; ".join(f"{name}: {value}" for name, value in of.machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in of.versions.items())
    return f"""\
- Machine: {machine}; its load average before was {of.load:.1f}; the host gave {of.stolen:.1%} of
  its CPU time to other machines meanwhile. The run took {of.minutes:.0f} minutes:
  `python -m tests.bench.lifecycle`.
- Versions: {versions}."""


def _idle(found: Mapping[str, Samples]) -> list[str]:
    shares = {
        figure.removeprefix(_IDLE): median(values)
        for samples in found.values()
        for figure, values in samples.items()
        if figure.startswith(_IDLE)
    }
    if not shares:
        return []
    listed = ", ".join(f"{name} {share:.2%}" for name, share in sorted(shares.items()))
    return [f"Of what 20 idle instances cost: {listed}."]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
