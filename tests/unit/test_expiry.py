"""When an instance that nobody uses is due."""

from __future__ import annotations

from typing import Any

import pytest

from shared.domain.expiry import due_at, is_due, sweep
from shared.domain.instance import Desired, Instance, Status
from tests.builders import an_instance


def a_running_instance(**changes: Any) -> Any:
    """Return an instance that became ready at 1000 and has a timeout of 60 s."""
    return an_instance(**{"status": Status.RUNNING, "ready_at": 1000.0, "timeout": 60, **changes})


def test_idleness_counts_from_the_last_use() -> None:
    assert due_at(a_running_instance(last_active=1500.0)) == 1560.0


def test_idleness_counts_from_ready_where_there_was_no_use() -> None:
    assert due_at(a_running_instance()) == 1060.0


def test_a_timeout_of_zero_is_never_due() -> None:
    assert due_at(a_running_instance(timeout=0)) is None


@pytest.mark.parametrize("status", set(Status) - {Status.RUNNING})
def test_an_instance_that_does_not_serve_is_not_idle(status: Status) -> None:
    assert due_at(a_running_instance(status=status, last_active=1.0)) is None


def test_an_instance_that_is_asked_to_stop_is_not_asked_again() -> None:
    assert due_at(a_running_instance(desired=Desired.STOPPED)) is None


@pytest.mark.parametrize(("now", "due"), [(1059.9, False), (1060.0, True), (9999.0, True)])
def test_an_instance_is_due_after_its_whole_timeout(now: float, *, due: bool) -> None:
    assert is_due(a_running_instance(), now) is due


def test_what_is_never_due_is_not_due_now() -> None:
    assert not is_due(a_running_instance(timeout=0), 1e12)


# many at once

NOW = 9_000.0


def a_fleet(due: int, in_use: int) -> list[Instance]:
    """Return running instances, so many idle for long, so many in use."""
    idle = [a_running_instance(instance_id=f"idle{n}") for n in range(due)]
    used = [a_running_instance(instance_id=f"used{n}", last_active=NOW) for n in range(in_use)]
    return idle + used


@pytest.mark.parametrize(("due", "in_use"), [(0, 3), (1, 0), (1, 1), (2, 2), (5, 5), (3, 9)])
def test_half_of_a_fleet_may_be_stopped_in_one_sweep(due: int, in_use: int) -> None:
    found = sweep(a_fleet(due, in_use), {}, NOW, 60.0)
    assert (len(found.stop), found.hold, list(found.held)) == (due, {}, [])


@pytest.mark.parametrize(("due", "in_use"), [(2, 0), (2, 1), (6, 5), (20, 0)])
def test_of_more_than_half_each_is_held_back_first_and_it_is_said(due: int, in_use: int) -> None:
    found = sweep(a_fleet(due, in_use), {}, NOW, 60.0)
    assert (found.stop, len(found.hold), len(found.held)) == ({}, due, due)
    share = f"{due} of {due + in_use} running instances are due at once"
    said = f"idle for 60 s, its timeout; held back for 60 s: {share}"
    assert set(found.hold.values()) == {said}


def test_what_does_not_run_counts_for_nothing() -> None:
    resting = [an_instance(instance_id=f"r{n}", status=Status.FAILED) for n in range(9)]
    assert len(sweep([*a_fleet(2, 1), *resting], {}, NOW, 60.0).hold) == 2


def test_who_was_held_back_long_enough_is_stopped_and_it_is_said() -> None:
    found = sweep(a_fleet(3, 0), {"idle0": NOW - 60.0, "idle1": NOW - 59.9}, NOW, 60.0)
    assert (list(found.stop), list(found.hold)) == (["idle0"], ["idle2"])
    assert "3 of 3 running instances are due at once" in found.stop["idle0"]
    assert set(found.held) == {"idle1", "idle2"}


def test_a_hold_ends_where_it_is_no_more_than_half() -> None:
    found = sweep(a_fleet(2, 2), {"idle0": NOW, "idle1": NOW, "used0": NOW}, NOW, 60.0)
    assert (set(found.stop), list(found.held)) == ({"idle0", "idle1"}, [])


def test_a_hold_that_began_in_the_future_begins_anew() -> None:
    found = sweep(a_fleet(2, 0), {"idle0": NOW + 3_600.0, "idle1": NOW}, NOW, 60.0)
    assert (found.stop, list(found.hold)) == ({}, ["idle0"])


def test_no_hold_holds_nothing_back_but_says_how_many_end_at_once() -> None:
    stop = sweep(a_fleet(5, 0), {}, NOW, 0.0).stop
    said = "idle for 60 s, its timeout; 5 of 5 running instances are due at once"
    assert list(stop.values()) == [said] * 5
    assert sweep(a_fleet(1, 0), {}, NOW, 0.0).stop == {"idle0": "idle for 60 s, its timeout"}
