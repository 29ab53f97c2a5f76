"""The lifecycle's section: what it says of a run, and that writing it leaves the rest alone."""

from __future__ import annotations

import pytest

from tests.bench.lifecycle import report
from tests.bench.lifecycle.goals import GOALS, Goal

OF = report.Circumstances(
    date="2026-01-02",
    minutes=3.2,
    stolen=0.01,
    load=0.4,
    machine={"CPU": "fast"},
    versions={"a": "1"},
)
ALWAYS = Goal(work="w", figure="f", most=0.25)
MEDIAN = Goal(work="w", figure="f", most=0.25, p50=True)


@pytest.mark.parametrize(
    ("goal", "samples", "verdict"),
    [
        (ALWAYS, [0.1, 0.25], "kept"),
        (ALWAYS, [0.1, 0.1, 0.3], "**at p50 only**"),
        (ALWAYS, [0.3, 0.4, 0.1], "**missed**"),
        (MEDIAN, [0.1, 0.1, 0.3], "kept"),
        (MEDIAN, [0.3, 0.4, 0.1], "**missed**"),
    ],
)
def test_a_promise_is_of_every_run_unless_it_names_the_median(
    goal: Goal, samples: list[float], verdict: str
) -> None:
    assert goal.verdict(samples) == verdict


def test_a_row_says_what_was_promised_and_what_was_found() -> None:
    text = report.section({"stand-in": {"spawn": [0.1, 0.12, 0.3]}}, OF)
    row = next(line for line in text.splitlines() if line.startswith("| POST accepted"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == [
        "stand-in", "≤ 150 ms p50", "120 ms", "300 ms", "3", "kept",
    ]  # fmt: skip


def test_what_was_not_measured_has_no_row() -> None:
    text = report.section({"stand-in": {"spawn": [0.1]}}, OF)
    assert [goal.work for goal in GOALS if goal.work in text] == [GOALS[0].work]


def test_the_cost_of_idle_instances_is_told_by_process() -> None:
    idle = {"idle": [0.015], "idle_web": [0.01], "idle_worker": [0.005]}
    text = report.section({"stand-in": idle}, OF)
    assert "web 1.00%, worker 0.50%" in text
    assert "| ≤ 2.00% | 1.50% |" in text


def test_a_section_replaces_the_one_before_and_nothing_else() -> None:
    first, second = (report.section({"stand-in": {"spawn": [s]}}, OF) for s in (0.1, 0.2))
    before = f"# Performance\n\nabove\n\n{first}\nbelow\n"
    assert report.replaced(before, second) == f"# Performance\n\nabove\n\n{second}\nbelow\n"
    assert report.kept(before) == first


def test_a_file_without_a_section_gets_one_at_its_end() -> None:
    section = report.section({}, OF)
    assert report.replaced("above\n", section) == f"above\n\n{section}"
    assert report.kept("above\n") == ""
