"""When an instance that nobody uses is due."""

from __future__ import annotations

from typing import Any

import pytest

from shared.domain.expiry import due_at, is_due
from shared.domain.instance import Desired, Status
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
