"""The measured part of docs/scaling.md. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from shared.domain.node import HEARTBEAT_S, LOST_AFTER_S
from tests.scale.alone import BEAT, LOOK, SWEEP, WHOLE_LOOK, Cost
from tests.scale.together import WARM_S, WEB_PROCESSES, Together
from workers.supervisor import QUIET_PASS_S, WHOLE_S

BEGIN = "<!-- written by make scale -->"
END = "<!-- end of what make scale writes -->"
_PLACE = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)

GROWS = ("choose", "once")
"""Beginnings of the names of operations that may cost more in a larger fleet, see the notes."""

_FLAT = 1.2  # as many commands, and bytes, in the largest fleet as in the smallest
_FLAT_BYTES = 500  # a count, a time and a cursor are a few digits longer
_FLAT_COMMANDS = 2
CONTROL_CORES = 1.0
_CHURNED = 0.97  # of what is asked for: else less was measured than is said
_ALONE = (
    "Medians and 99th percentiles in ms, of calls from Python with nothing else under way; then "
    "the commands that Redis ran for one, those within scripts, too, and the bytes that it sent."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What was measured of one size."""

    nodes: int
    instances: int  # in all, that stay
    alone: Mapping[str, Cost]
    together: Together | None = None

    @property
    def nodes_work(self) -> float:
        """Share of one core that all nodes' workers need for what they ask of the store, together.

        By what each call takes of CPU alone, and how often each node makes it.
        """
        own = {name: self.alone[name].own_us / 1e6 for name in (BEAT, LOOK, WHOLE_LOOK, SWEEP)}
        each = (own[BEAT] + own[SWEEP]) / HEARTBEAT_S + own[LOOK] / QUIET_PASS_S
        each += own[WHOLE_LOOK] / WHOLE_S
        return self.nodes * each


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What else the report says."""

    date: str
    churn: float
    machine: Mapping[str, str]
    versions: Mapping[str, str]


def faults(runs: list[Run]) -> list[str]:
    """Return what is not as it must be: costs that grow, a control plane that needs too much."""
    found = []
    small, large = runs[0], runs[-1]
    for name, cost in large.alone.items():
        before = small.alone[name]
        if name.startswith(GROWS):
            continue
        if cost.commands > _FLAT * before.commands + _FLAT_COMMANDS:
            found.append(
                f"{name}: {cost.commands:.0f} commands with {large.nodes} nodes, "
                f"{before.commands:.0f} with {small.nodes}"
            )
        if cost.sent > _FLAT * before.sent + _FLAT_BYTES:
            found.append(
                f"{name}: {cost.sent:.0f} bytes with {large.nodes} nodes, "
                f"{before.sent:.0f} with {small.nodes}"
            )
    for run in runs:
        if run.together is not None:
            found += [f"{run.nodes} nodes: {fault}" for fault in _faults_of(run.together)]
    return found


def _faults_of(seen: Together) -> list[str]:
    found = []
    if seen.control_cpu >= CONTROL_CORES:
        found.append(f"{seen.control_cpu:.2f} cores")
    if seen.refused:
        found.append(f"{seen.refused} calls failed")
    if seen.churned < _CHURNED * seen.churn:
        found.append(f"{seen.churned:.1f} of {seen.churn:g} created a second")
    if seen.late_s > LOST_AFTER_S - HEARTBEAT_S:
        found.append(f"a beat was {seen.late_s:.1f} s late: the simulation lags")
    return found


def with_section(text: str, section: str) -> str:
    """Return the document with what was measured in its place."""
    return _PLACE.sub(lambda _: f"{BEGIN}\n\n{section}\n\n{END}", text)


def section(runs: list[Run], of: Circumstances) -> str:
    """Return what was measured, as Markdown."""
    whole = [run for run in runs if run.together is not None]
    versions = ", ".join(f"{name} {value}" for name, value in of.versions.items())
    machine = "; ".join(f"{name}: {value}" for name, value in of.machine.items())
    parts = [_verdict(runs)]
    if whole:
        parts += ["### All at once", _caption(whole, of), _cpu_table(whole), _times_table(whole)]
    parts += [
        "### Each operation alone",
        _ALONE,
        _alone_table(runs),
        f"Measured on {of.date}. {machine}. {versions}.",
    ]
    return "\n\n".join(parts)


def _verdict(runs: list[Run]) -> str:
    found = faults(runs)
    if not found:
        return "Every operation is flat, and the control plane needs less than one core."
    return "**Not as it must be:**\n\n" + "\n".join(f"- {fault}" for fault in found)


def _caption(runs: list[Run], of: Circumstances) -> str:
    seconds = max(run.together.seconds for run in runs if run.together)
    return (
        f"{seconds:.0f} seconds of each, after {WARM_S:.0f} to get warm: {of.churn:g} instances "
        f"created and as many deleted in a second, by REST, on a web tier of {WEB_PROCESSES} "
        "processes; lists, records and /readyz read once a second each; all heartbeats, looks and "
        "sweeps of all nodes; one in ten instances in use; every message of Celery. CPU in "
        "shares of one core."
    )


def _cpu_table(runs: list[Run]) -> str:
    rows: list[tuple[str, list[str]]] = []

    def row(name: str, show: str, value: str) -> None:
        cells = [show.format(getattr(run.together, value)) for run in runs]
        rows.append((name, cells))

    row("**control plane, CPU**", "**{:.2f}**", "control_cpu")
    row("Redis", "{:.2f}", "redis_cpu")
    row("web tier", "{:.2f}", "web_cpu")
    row("both, in windows of five seconds: least, median, most", "{}", "spread")
    row("a fixed piece of work, in times of its CPU time on the idle machine", "{:.2f}", "slowed")
    work = [f"{run.nodes_work:.2f}" for run in runs]
    rows.append(("besides, on the nodes: all workers' beats, sweeps and looks, in sum", work))
    row("not part of a fleet: simulated nodes", "{:.2f}", "nodes_cpu")
    row("not part of a fleet: callers", "{:.2f}", "callers_cpu")
    row("not part of a fleet: the watcher", "{:.2f}", "watcher_cpu")
    row("Redis: commands a second, in scripts too", "{:,.0f}", "redis_commands")
    row("Redis: memory, MiB", "{:.0f}", "redis_mib")
    row("Redis: connections", "{:,}", "redis_connections")
    row("web tier: memory, MiB", "{:.0f}", "web_mib")
    row("created a second", "{:.1f}", "churned")
    row("a node's beat or look was late by at most, s", "{:.1f}", "late_s")
    return _table(["", *map(_size, runs)], [[name, *cells] for name, cells in rows])


def _times_table(runs: list[Run]) -> str:
    names = dict.fromkeys(name for run in runs if run.together for name in run.together.times)
    rows = []
    for name in sorted(names):
        cells = []
        for run in runs:
            times = run.together.times.get(name) if run.together else None
            cells += [f"{times.p50_ms:.1f}", f"{times.p99_ms:.1f}"] if times else ["", ""]
        rows.append([name, *cells])
    head = [cell for run in runs for cell in (f"{run.nodes:,} nodes: p50, ms", "p99")]
    return _table(["", *head], rows)


def _alone_table(runs: list[Run]) -> str:
    rows = []
    for name in runs[-1].alone:
        cells = []
        for run in runs:
            cost = run.alone[name]
            cells += [
                f"{cost.times.p50_ms:.2f}",
                f"{cost.times.p99_ms:.2f}",
                f"{max(0.0, cost.commands):.0f}",
                f"{max(0.0, cost.sent):,.0f}",
            ]
        rows.append([name, *cells])
    head = [c for run in runs for c in (f"{run.nodes:,} nodes: p50", "p99", "commands", "bytes")]
    return _table(["", *head], rows)


def _size(run: Run) -> str:
    return f"{run.nodes:,} nodes, {run.instances:,} instances"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
