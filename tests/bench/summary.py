"""What a run found, as a table for a terminal: medians, and ratios to nginx in the same round."""

from __future__ import annotations

from tests.bench.goals import BASE
from tests.bench.results import Results

FIGURES: dict[str, tuple[str, ...]] = {
    "json": ("answers_per_s", "cpu_us_per_answer", "latency_p50", "latency_p99"),
    "sse": (
        "chunks_per_s", "cpu_us_per_chunk", "delay_p50", "delay_p99", "first_byte_p50", "added_mib",
    ),
    "up": ("answers_per_s", "cpu_us_per_answer", "added_mib"),
    "down": ("answers_per_s", "cpu_us_per_answer", "added_mib"),
    "gone": ("gone_p50", "gone_max", "missed"),
    "scale": ("answers_per_s", "cpu_us_per_answer"),
}  # fmt: skip


def figures_of(scenario: str) -> tuple[str, ...]:
    """Return the figures that are of interest in a scenario."""
    return next(names for kind, names in FIGURES.items() if scenario.startswith(kind))


def text(results: Results) -> str:
    """Return the table."""
    lines: list[str] = []
    for scenario in dict.fromkeys(m.scenario for m in results):
        names = figures_of(scenario)
        lines += ["", f"{scenario:14}" + "".join(f"{name:>24}" for name in names)]
        for target in dict.fromkeys(m.target for m in results if m.scenario == scenario):
            why = results.refusals(scenario, target)
            cells = (
                [f"  no number: {why[0]}"]
                if why
                else [_cell(results, scenario, target, name) for name in names]
            )
            lines.append(f"{target:14}" + "".join(cells))
    return "\n".join(lines) + "\n"


def _cell(results: Results, scenario: str, target: str, figure: str) -> str:
    value = results.value(scenario, target, figure)
    ratio = results.ratio(scenario, target, BASE, figure)
    shown = "-" if value is None else f"{value:,.1f}"
    return f"{shown:>15}" + (f" {f'({ratio:.2f}x)':>8}" if ratio is not None else " " * 9)
