"""What follows a crash: the waits, their sum, and when no more is tried."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.backoff import RestartRule, Verdict, after_crash, seconds_to_retry
from shared.domain.cause import Cause
from shared.domain.instance import Instance
from tests.builders import an_instance

NOW = 1_000_000.0
RULE = RestartRule(
    backoff=10.0, backoff_max=300.0, reset_after=600.0, max_failed_starts=5, max_per_hour=10
)
KILLED = Cause("killed", "engine ended by signal 9")
NO_JITTER = 0.5


def crashed(record: Instance, now: float = NOW, cause: Cause = KILLED) -> tuple[Instance, Verdict]:
    """Return the record after a crash, and what was decided."""
    verdict = after_crash(record, cause, now, RULE, NO_JITTER)
    kept = ("crashes", "failed_starts", "backoff_step", "first_cause", "first_reason")
    return replace(record, **{name: getattr(verdict, name) for name in kept}), verdict


def waits(
    record: Instance, times: int, *, ran_for: float | None, every: float
) -> list[float | None]:
    """Return the waits of an engine that crashes again and again.

    Args:
        record: at first.
        times: how many crashes.
        ran_for: how long it was ready each time; None: it never was.
        every: seconds from crash to crash.
    """
    found = []
    for number in range(times):
        now = NOW + number * every
        record = replace(record, ready_at=None if ran_for is None else now - ran_for)
        record, verdict = crashed(record, now)
        found.append(verdict.retry_in)
    return found


def test_waits_double_up_to_the_most() -> None:
    found = waits(an_instance(), 8, ran_for=60.0, every=400.0)
    assert found == [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]


def test_the_fifth_start_that_was_never_ready_is_the_last() -> None:
    assert waits(an_instance(), 5, ran_for=None, every=60.0) == [10.0, 20.0, 40.0, 80.0, None]


def test_a_start_that_was_ready_begins_that_count_anew() -> None:
    record = an_instance(failed_starts=4, ready_at=NOW - 1.0)
    record, verdict = crashed(record)
    assert (verdict.retry_in, record.failed_starts) == (10.0, 0)


def test_the_tenth_crash_within_an_hour_is_the_last() -> None:
    assert waits(an_instance(), 10, ran_for=10.0, every=300.0)[8:] == [300.0, None]


def test_crashes_of_more_than_an_hour_ago_are_forgotten() -> None:
    assert None not in waits(an_instance(), 30, ran_for=10.0, every=401.0)


def test_ten_minutes_of_running_forgive_the_crashes_before() -> None:
    record = an_instance(
        crashes=(NOW - 700.0,) * 9, backoff_step=9, failed_starts=0, first_cause="gpu_out_of_memory"
    )
    after, verdict = crashed(replace(record, ready_at=NOW - 600.0))
    assert (verdict.retry_in, after.crashes, after.backoff_step) == (10.0, (NOW,), 1)
    assert (after.first_cause, after.first_reason) == ("killed", "engine ended by signal 9")


def test_less_than_that_does_not() -> None:
    record = an_instance(crashes=(NOW - 700.0,), backoff_step=3, ready_at=NOW - 599.9)
    assert crashed(record)[1].retry_in == 80.0


def test_a_permanent_cause_is_never_tried_again() -> None:
    cause = Cause("bad_flag", "engine exited with status 2", permanent=True)
    verdict = crashed(an_instance(ready_at=NOW - 10_000.0), cause=cause)[1]
    assert (verdict.retry_in, verdict.first_cause) == (None, "bad_flag")


def test_the_first_cause_of_a_loop_stays() -> None:
    record, _ = crashed(an_instance(), cause=Cause("gpu_out_of_memory", "CUDA out of memory"))
    record, _ = crashed(record, NOW + 10.0, KILLED)
    assert (record.first_cause, record.first_reason) == ("gpu_out_of_memory", "CUDA out of memory")


def test_why_it_is_given_up_is_said() -> None:
    record = an_instance(failed_starts=4)
    assert crashed(record)[1].why == "given up after 5 starts in a row that were never ready"
    record = an_instance(crashes=(NOW - 1.0,) * 9, ready_at=NOW - 1.0)
    assert crashed(record)[1].why == "given up after 10 crashes within an hour"


@given(st.floats(0.0, 1.0), st.integers(0, 10_000))
def test_jitter_is_a_tenth_at_most(chance: float, step: int) -> None:
    record = an_instance(backoff_step=step, ready_at=NOW - 1.0)
    found = after_crash(record, KILLED, NOW, RULE, chance).retry_in
    wanted = min(10.0 * 2 ** min(step, 40), 300.0)
    assert found is not None
    assert abs(found - wanted) <= 0.1 * wanted + 1e-9


def test_crashes_that_a_clock_has_dated_ahead_do_not_count() -> None:
    record, _ = crashed(an_instance(crashes=(NOW + 3_600.0,), ready_at=NOW - 1.0))
    assert record.crashes == (NOW,)


@pytest.mark.parametrize(
    ("retry_at", "left"),
    [
        (None, 0.0),
        (NOW - 1.0, 0.0),
        (NOW, 0.0),
        (NOW + 7.5, 7.5),
        (NOW + 330.0, 330.0),
        (NOW + 331.0, 0.0),
        (NOW + 3_600.0, 0.0),
    ],
)
def test_a_retry_is_never_further_away_than_the_longest_wait(
    retry_at: float | None, left: float
) -> None:
    assert seconds_to_retry(retry_at, NOW, RULE) == left
