"""Whether an engine hangs, by what it said of its steps, looked at every ten seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.health import Pulse, Vitals, ask_again_after, felt, why_hung

GRACE = 120.0


def watched(*answers: Vitals | None, every: float = 10.0) -> Pulse:
    """Return the pulse after these answers."""
    pulse = Pulse()
    for number, answer in enumerate(answers):
        pulse = felt(pulse, answer, 1_000.0 + number * every)
    return pulse


def saying(running: float, *steps: float) -> list[Vitals]:
    """Return one answer for each count of steps."""
    return [Vitals(running=running, steps=count) for count in steps]


FLAT = saying(2.0, *[7.0] * 13)  # 120 seconds of it


def test_requests_without_a_step_for_the_grace_are_a_hang() -> None:
    assert why_hung(watched(*FLAT), GRACE) == "hung: 2 requests run in it, and no step for 120 s"


def test_a_moment_less_is_not() -> None:
    assert why_hung(watched(*FLAT[1:]), GRACE) == ""


def test_one_step_begins_it_anew() -> None:
    answers = [*FLAT[1:], Vitals(running=2.0, steps=8.0)]
    assert watched(*answers).flat_s == 0.0
    assert why_hung(watched(*answers, *saying(2.0, *[8.0] * 11)), GRACE) == ""


def test_an_idle_engine_makes_no_steps_and_is_well() -> None:
    pulse = watched(*saying(0.0, *[7.0] * 100))
    assert (why_hung(pulse, GRACE), pulse.well) == ("", True)


def test_a_request_that_came_just_now_has_not_hung_for_the_time_before() -> None:
    pulse = watched(*saying(0.0, 7.0), *saying(1.0, 7.0), every=1_000.0)
    assert pulse.flat_s == 0.0


def test_a_saturated_engine_that_makes_steps_is_left_alone() -> None:
    answers = [None if n % 3 else Vitals(running=256.0, steps=float(n)) for n in range(200)]
    assert all(why_hung(watched(*answers[:n]), GRACE) == "" for n in range(200))


def test_silence_for_the_grace_is_a_hang_too() -> None:
    silent = [*saying(0.0, 7.0), *[None] * 14]
    assert why_hung(watched(*silent), GRACE) == "hung: it has not answered for 130 s"
    assert why_hung(watched(*silent[:-2]), GRACE) == ""


def test_an_answer_ends_the_silence() -> None:
    pulse = watched(*[None] * 14, *saying(0.0, 7.0))
    assert (why_hung(pulse, GRACE), pulse.well) == ("", True)


def test_one_answer_of_an_engine_in_use_does_not_show_that_it_is_well_again() -> None:
    """A worker that takes over an unhealthy engine knows nothing of its steps before."""
    assert not watched(*saying(2.0, 7.0)).well
    assert watched(*saying(2.0, 7.0, 8.0)).well


def test_what_nobody_watched_does_not_count() -> None:
    """A worker that was frozen for an hour knows nothing of that hour."""
    assert why_hung(watched(*FLAT[:3], every=3_600.0), GRACE) == ""
    assert why_hung(watched(None, None, None, every=3_600.0), GRACE) == ""


def test_an_engine_that_was_never_asked_is_neither_well_nor_hung() -> None:
    assert (why_hung(Pulse(), GRACE), Pulse().well) == ("", False)


@pytest.mark.parametrize(
    ("pulse", "in_use", "seconds"),
    [
        (Pulse(steps=7.0), False, 60.0),
        (Pulse(steps=7.0), True, 10.0),
        (Pulse(steps=7.0, running=1.0), False, 10.0),
        (Pulse(steps=7.0, unanswered=1), False, 10.0),
        (Pulse(steps=7.0, running=1.0, flat_s=1.0), False, 10.0),
    ],
)
def test_an_engine_is_asked_often_only_when_it_is_used_or_looks_ill(
    pulse: Pulse, *, in_use: bool, seconds: float
) -> None:
    assert ask_again_after(pulse, GRACE, in_use=in_use) == seconds


@given(st.lists(st.none() | st.builds(Vitals, running=st.floats(0, 9), steps=st.floats(0, 9))))
def test_a_hang_is_never_found_sooner_than_the_grace(answers: list[Vitals | None]) -> None:
    if why_hung(watched(*answers), GRACE):
        assert len(answers) > GRACE / 10.0
