"""Whether an engine hangs, by what it said of its steps, looked at every ten seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.health import (
    Answer,
    Pulse,
    Vitals,
    after_token,
    ask_again_after,
    felt,
    is_suspect,
    token_timeout,
    why_hung,
)

GRACE = 120.0


def watched(*answers: Vitals | None, every: float = 10.0, in_use: bool = False) -> Pulse:
    """Return the pulse after these answers."""
    return went_on(Pulse(), *answers, every=every, in_use=in_use)


def went_on(
    pulse: Pulse, *answers: Vitals | None, every: float = 10.0, in_use: bool = False
) -> Pulse:
    """Return what became of a pulse by these answers."""
    at = 1_000.0 if pulse.asked_at is None else pulse.asked_at + every
    for number, answer in enumerate(answers):
        pulse = felt(pulse, answer, at + number * every, in_use=in_use)
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


# requests are under way to an engine that says that none runs in it

UNSERVED = saying(0.0, *[7.0] * 13)  # 120 seconds of it


def test_requests_that_never_come_to_run_are_a_suspicion_and_no_more() -> None:
    pulse = watched(*UNSERVED, in_use=True)
    assert (is_suspect(pulse, GRACE), why_hung(pulse, GRACE)) == (True, "")
    assert not is_suspect(watched(*UNSERVED[1:], in_use=True), GRACE)


def test_an_engine_that_nobody_uses_is_not_suspect() -> None:
    assert not is_suspect(watched(*UNSERVED * 9), GRACE)


def test_use_that_pauses_is_added_up() -> None:
    """A caller who gives up after a while and tries again later shows as much as one who waits."""
    pulse = watched(*UNSERVED[1:], in_use=True)
    assert is_suspect(went_on(went_on(pulse, *UNSERVED), UNSERVED[0], in_use=True), GRACE)


@pytest.mark.parametrize("sign", [Vitals(running=0.0, steps=8.0), Vitals(running=1.0, steps=7.0)])
def test_a_step_or_a_request_that_runs_ends_the_suspicion(sign: Vitals) -> None:
    pulse = went_on(watched(*UNSERVED, in_use=True), sign, in_use=True)
    assert pulse.unserved_s == 0.0


def test_an_engine_that_says_nothing_of_its_steps_is_not_suspect() -> None:
    assert not is_suspect(watched(*[Vitals(running=0.0, steps=None)] * 99, in_use=True), GRACE)


def test_no_token_in_time_is_a_hang() -> None:
    pulse = after_token(watched(*UNSERVED, in_use=True), Answer.NONE, 60.0)
    assert why_hung(pulse, GRACE) == (
        "hung: requests under way, and no step for 120 s, then none for one token within 60 s"
    )
    assert not is_suspect(pulse, GRACE)


@pytest.mark.parametrize("answer", [Answer.GIVEN, Answer.UNTELLING])
def test_whatever_else_comes_of_the_token_begins_the_suspicion_anew(answer: Answer) -> None:
    pulse = after_token(watched(*UNSERVED, in_use=True), answer, 60.0)
    assert (is_suspect(pulse, GRACE), why_hung(pulse, GRACE)) == (False, "")
    assert is_suspect(went_on(pulse, *UNSERVED[1:], in_use=True), GRACE)


def test_an_engine_that_gave_no_token_is_well_again_once_it_makes_a_step() -> None:
    mute = after_token(watched(*UNSERVED, in_use=True), Answer.NONE, 60.0)
    still = went_on(mute, *UNSERVED)
    assert (still.well, bool(why_hung(still, GRACE))) == (False, True)
    again = went_on(still, *saying(0.0, 8.0))
    assert (again.well, why_hung(again, GRACE)) == (True, "")


@pytest.mark.parametrize(("grace", "seconds"), [(2.0, 5.0), (30.0, 15.0), (3_600.0, 60.0)])
def test_a_token_has_half_of_the_grace_within_bounds(grace: float, seconds: float) -> None:
    assert token_timeout(grace) == seconds


@pytest.mark.parametrize(
    ("pulse", "in_use", "seconds"),
    [
        (Pulse(steps=7.0), False, 60.0),
        (Pulse(steps=7.0), True, 5.0),
        (Pulse(steps=7.0, running=1.0), False, 5.0),
        (Pulse(steps=7.0, unanswered=1), False, 5.0),
        (Pulse(steps=7.0, running=1.0, flat_s=1.0), False, 5.0),
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
