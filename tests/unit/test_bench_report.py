"""The benchmark's report: what it says of a run, and what it refuses to say."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench import report, summary
from tests.bench.disturbance import Disturbance
from tests.bench.goals import GOALS, Goal, Kind
from tests.bench.results import Measurement, Results
from tests.bench.scenarios import BY_NAME as SCENARIOS

AT_LEAST = Goal(
    work="w", scenario="json16", figure="answers_per_s", goal=0.65, least=True, hoped=1.0
)
AT_MOST = Goal(
    work="w", scenario="gone_json", figure="gone_p50", kind=Kind.VALUE, goal=2, unit="ms"
)


def seen(target: str, round_: int = 0, scenario: str = "json16", **figures: float) -> Measurement:
    return Measurement(scenario=scenario, target=target, round=round_, figures=figures)


def refused(target: str, why: str, round_: int = 0, scenario: str = "json16") -> Measurement:
    return Measurement(scenario=scenario, target=target, round=round_, refused=why)


def written(*measurements: Measurement, by_hand: str = "\n", **changes: Any) -> str:
    circumstances: dict[str, Any] = {
        "date": "2026-01-02",
        "rounds": 3,
        "minutes": 12.3,
        "disturbance": Disturbance(others=0.01, stolen=0.002),
        "machine": {"CPU": "fast"},
        "versions": {"nginx": "1.2.3"},
    }
    return report.text(
        Results(measurements), report.Circumstances(**(circumstances | changes)), by_hand
    )


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    # The machine slows down to a tenth in the last round: both suffer, their ratio does not.
    nginx = [seen("nginx", i, answers_per_s=value) for i, value in enumerate([100.0, 90.0, 10.0])]
    ours = [seen("ours", i, answers_per_s=value) for i, value in enumerate([50.0, 90.0, 7.0])]
    results = Results([*nginx, *ours])
    assert results.ratio("json16", "ours", "nginx", "answers_per_s") == pytest.approx(0.7)
    assert results.value("json16", "ours", "answers_per_s") == 50.0


def test_a_round_without_its_base_has_no_ratio() -> None:
    results = Results([seen("ours", 0, answers_per_s=9.0), seen("nginx", 1, answers_per_s=10.0)])
    assert results.ratio("json16", "ours", "nginx", "answers_per_s") is None


def test_cpu_is_divided_by_every_answer_of_the_run() -> None:
    assert seen("ours", cpu_s=0.5, answers=10_000).figure("cpu_us_per_answer") == 50.0


def test_added_memory_is_the_peak_less_what_was_there_before() -> None:
    assert seen("ours", idle_mib=60.0, peak_mib=63.5).figure("added_mib") == 3.5


def test_the_round_that_added_the_most_memory_counts() -> None:
    added = [seen("ours", i, idle_mib=50.0, peak_mib=peak) for i, peak in enumerate([90, 50, 50])]
    assert Results(added).value("json16", "ours", "added_mib") == 40.0


@pytest.mark.parametrize("name", ["cpu_us_per_answer", "cpu_us_per_chunk", "added_mib", "other"])
def test_a_figure_that_does_not_follow_from_what_was_measured_is_none(name: str) -> None:
    assert seen("direct", answers=5).figure(name) is None


def test_one_refused_round_takes_all_numbers_of_that_target_and_scenario_away() -> None:
    nginx = [seen("nginx", round_, answers_per_s=100.0) for round_ in range(3)]
    ours = [seen("ours", round_, answers_per_s=99.0) for round_ in range(2)]
    results = Results([*nginx, *ours, refused("ours", "cut off", 2)])
    assert results.value("json16", "ours", "answers_per_s") is None
    assert results.ratio("json16", "ours", "nginx", "answers_per_s") is None
    assert results.value("json16", "nginx", "answers_per_s") == 100.0


def test_a_refused_base_takes_all_ratios_away() -> None:
    results = Results([refused("nginx", "cut off"), seen("ours", answers_per_s=99.0)])
    assert results.ratio("json16", "ours", "nginx", "answers_per_s") is None


@pytest.mark.parametrize(
    ("goal", "value", "kept"),
    [(AT_LEAST, 0.65, True), (AT_LEAST, 0.64, False), (AT_MOST, 2.0, True), (AT_MOST, 2.1, False)],
)
def test_a_promise_is_kept_or_missed(goal: Goal, value: float, kept: bool) -> None:
    assert goal.kept(value) is kept


def test_a_promise_is_judged_by_the_digits_that_are_shown() -> None:
    assert AT_LEAST.kept(0.646)
    assert AT_LEAST.show(0.646) == "0.65 x"


def test_a_small_ratio_is_not_shown_as_nothing() -> None:
    assert (AT_LEAST.show(0.0044), AT_LEAST.show(0.0)) == ("0.004 x", "0.00 x")


def test_every_promise_is_about_a_scenario_that_is_measured() -> None:
    assert {goal.scenario for goal in GOALS} == set(SCENARIOS)


def test_the_report_holds_a_measured_ratio_against_its_promise() -> None:
    text = written(seen("nginx", answers_per_s=100.0), seen("ours", answers_per_s=70.0))
    start = "| small JSON, 16 connections"
    assert line_of(text, start) == f"{start}: requests/s | ≥ 0.65 x | 1.00 x | 0.70 x | kept |"


def test_the_report_does_not_hide_a_missed_promise() -> None:
    text = written(seen("nginx", answers_per_s=100.0), seen("ours", answers_per_s=20.0))
    assert "0.20 x | **missed**" in line_of(text, "| small JSON, 16 connections")


def test_the_report_says_why_there_is_no_number() -> None:
    text = written(seen("nginx", answers_per_s=100.0), refused("ours", "status 502"))
    assert "| no number |" in line_of(text, "| small JSON, 16 connections")
    assert "- `ours`: no number: status 502" in text


def test_the_report_says_what_was_not_measured() -> None:
    text = written(seen("nginx", answers_per_s=100.0))
    assert "| not measured |" in line_of(text, "| small JSON, 16 connections")


def test_the_report_says_what_a_peer_cannot_do() -> None:
    text = written(seen("litellm", answers_per_s=1.0), seen("nginx", scenario="down8m"))
    assert "| cannot |" in line_of(text, "| 8 MiB downloads")
    assert "- `litellm`: passes on nothing but" in text


def test_an_engine_that_never_saw_its_caller_leave_gets_no_time() -> None:
    rounds = [
        seen("ours", round_, "gone_json", trials=3, missed=missed, gone_p50=300.0)
        for round_, missed in enumerate([0, 0, 1])
    ]
    line = line_of(written(*rounds), "| caller gone, not streamed")
    assert "| not within 4 s | **missed** |" in line


def test_the_report_says_what_was_checked_of_each_target() -> None:
    text = written(seen("ours"), seen("litellm"))
    assert "everything on. Checked: every byte of every answer" in line_of(text, "- `ours`")
    assert "only the text of answers" in line_of(text, "- `litellm`")


def test_what_was_written_by_hand_is_kept_to_the_byte() -> None:
    mine = "\nThe relay spends\n\n  half of it in `write`.  \n\n"
    first = written(seen("ours"), by_hand=mine)
    assert report.by_hand(first) == mine
    assert report.by_hand(written(seen("ours"), by_hand=report.by_hand(first))) == mine


def test_a_file_without_the_marks_has_nothing_to_keep() -> None:
    assert report.by_hand("# Performance\n").strip() == ""


def test_the_terminal_shows_no_number_either() -> None:
    results = Results([seen("nginx", answers_per_s=100.0), refused("ours", "a stream ended")])
    assert "no number: a stream ended" in line_of(summary.text(results), "ours")


def test_the_lifecycles_section_is_kept() -> None:
    section = "<!-- lifecycle: written by `make bench` -->\nfast\n<!-- end of lifecycle -->\n"
    circumstances = report.Circumstances(
        date="2026-01-02",
        rounds=3,
        minutes=1.0,
        disturbance=Disturbance(others=0.0, stolen=0.0),
        machine={},
        versions={},
    )
    assert section in report.text(Results(), circumstances, "\n", section)
