"""When a start will be ready, judged by earlier starts of the same kind."""

from __future__ import annotations

import pytest

from shared.domain.eta import PastStart, Reached, expected_seconds, kind_of_start

STAGES = {"configure": 5.0, "weights": 20.0, "warm-up": 60.0}
QUICK = PastStart(seconds=70.0, stages=STAGES)
SLOW = PastStart(seconds=100.0, stages=STAGES)
AT_LAUNCH = Reached(stage="launch", progress=None, at=0.0)


def at(stage: str, seconds: float, progress: float | None = None) -> Reached:
    """Return a start that came to `stage` after `seconds`."""
    return Reached(stage=stage, progress=progress, at=seconds)


def test_without_earlier_starts_nobody_can_say() -> None:
    assert expected_seconds([], AT_LAUNCH, 3.0) is None


def test_at_launch_it_is_the_median_of_earlier_starts() -> None:
    past = [PastStart(seconds=seconds) for seconds in (10.0, 90.0, 20.0)]
    assert expected_seconds(past, AT_LAUNCH, 3.0) == 20.0


def test_a_stage_that_comes_late_moves_it_by_as_much() -> None:
    assert expected_seconds([QUICK], at("weights", 50.0), 50.0) == 100.0


def test_a_stage_that_comes_early_moves_it_too() -> None:
    # Another start has downloaded the model already.
    assert expected_seconds([QUICK], at("weights", 8.0), 9.0) == 58.0


@pytest.mark.parametrize(("progress", "seconds"), [(0.0, 70.0), (0.5, 50.0), (1.0, 30.0)])
def test_a_percentage_of_a_stage_counts(progress: float, seconds: float) -> None:
    # The stage took 40 s then, and 10 s came after it.
    assert expected_seconds([QUICK], at("weights", 20.0, progress), 20.0) == seconds


def test_the_last_stage_ends_at_ready() -> None:
    assert expected_seconds([QUICK], at("warm-up", 60.0, 0.5), 61.0) == 65.0


def test_waiting_in_a_stage_does_not_move_it() -> None:
    assert {
        expected_seconds([QUICK], at("weights", 20.0), elapsed) for elapsed in (20, 40, 69)
    } == {70.0}


def test_starts_that_would_be_ready_by_now_no_longer_count() -> None:
    assert expected_seconds([QUICK, SLOW], at("weights", 20.0), 30.0) == 85.0
    assert expected_seconds([QUICK, SLOW], at("weights", 20.0), 75.0) == 100.0


def test_one_that_takes_longer_than_any_before_has_no_expected_end() -> None:
    assert expected_seconds([QUICK, SLOW], at("weights", 20.0), 101.0) is None


def test_a_stage_that_no_earlier_start_had_is_judged_by_the_whole() -> None:
    assert expected_seconds([QUICK], at("compile", 30.0), 35.0) == 70.0


def test_two_stages_that_began_at_once_are_no_trouble() -> None:
    past = PastStart(seconds=10.0, stages={"weights": 2.0, "compile": 2.0})
    assert expected_seconds([past], at("compile", 2.0, 0.5), 2.0) == pytest.approx(8.0, abs=4.0)


def test_the_same_model_and_flags_on_the_same_devices_are_one_kind() -> None:
    one = kind_of_start("org/model", {"a": 1, "b": [2]}, ["H100", "H100"])
    assert one == kind_of_start("org/model", {"b": [2], "a": 1}, ["H100", "H100"])


@pytest.mark.parametrize(
    ("model", "params", "devices"),
    [
        ("org/other", {"a": 1}, ["H100"]),
        ("org/model", {"a": 2}, ["H100"]),
        ("org/model", {"a": 1}, ["H100", "H100"]),
        ("org/model", {"a": 1}, ["A100"]),
    ],
)
def test_another_model_flag_or_device_is_another_kind(
    model: str, params: dict[str, object], devices: list[str]
) -> None:
    assert kind_of_start(model, params, devices) != kind_of_start("org/model", {"a": 1}, ["H100"])
