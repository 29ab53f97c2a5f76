"""Which of two copies of a record is the newer, and what is written back."""

from __future__ import annotations

from typing import Any

import pytest

from shared.domain.instance import BY_IDLE, Desired, Instance, Status
from shared.domain.rebuild import Rebuilt, is_behind, rebuilt
from tests.builders import an_instance

DAY_S = 86_400.0
NOW = 1_000_000.0
STOPPED_BY_USER: dict[str, Any] = {
    "desired": Desired.STOPPED, "stop_by": "user", "stop_reason": "enough"
}  # fmt: skip


def running(**changes: Any) -> Instance:
    """Return a running instance in its second run, with `changes`."""
    return an_instance(**{"status": Status.RUNNING, "generation": 1, "revision": 6, "run": 2}
                       | changes)  # fmt: skip


def decided(kept: Instance, found: Instance | None) -> Rebuilt | None:
    """Return what is decided."""
    return rebuilt(kept, found, now=NOW, keep_ended_s=DAY_S)


@pytest.mark.parametrize(
    "status",
    [status for status in Status if status not in (Status.STOPPED, Status.FAILED)],
)
def test_what_has_not_ended_is_written_back_as_it_was(status: Status) -> None:
    kept = running(status=status)
    found = decided(kept, None)
    assert found
    assert found.record == kept
    assert "had lost this record" in found.reason


def test_what_has_stopped_is_not_written_back() -> None:
    assert decided(running(status=Status.STOPPED, ended_at=NOW), None) is None


@pytest.mark.parametrize(("age_s", "back"), [(DAY_S - 1, True), (DAY_S + 1, False)])
def test_a_failure_is_written_back_for_as_long_as_it_would_be_kept(
    age_s: float, back: bool
) -> None:
    failed = running(status=Status.FAILED, ended_at=NOW - age_s)
    assert (decided(failed, None) is not None) is back


def test_the_same_copy_stays() -> None:
    assert decided(running(), running()) is None


@pytest.mark.parametrize("change", [{"revision": 7}, {"generation": 2, "revision": 7}, {"run": 3}])
def test_a_newer_copy_stays(change: dict[str, int]) -> None:
    assert decided(running(), running(**change)) is None


@pytest.mark.parametrize("older", [{"revision": 5}, {"run": 1}])
def test_of_an_older_copy_nothing_stays(older: dict[str, int]) -> None:
    assert is_behind(running(**older), running())
    found = decided(running(), running(status=Status.STARTING, **older))
    assert found
    assert found.record == running()
    assert "older copy" in found.reason
    assert "starting" in found.reason


def test_what_has_stopped_stays_so_in_an_older_copy() -> None:
    stopped = running(status=Status.STOPPED, generation=2, revision=9, **STOPPED_BY_USER)
    found = decided(stopped, running())
    assert found
    assert found.record == stopped


def test_a_users_stop_holds_although_the_copy_is_older() -> None:
    kept = running(generation=4, revision=20)
    found = decided(kept, running(generation=2, **STOPPED_BY_USER))
    assert found
    assert found.record.desired is Desired.STOPPED
    assert (found.record.stop_by, found.record.stop_reason) == ("user", "enough")
    assert found.record.generation == 5  # a new desire
    assert found.record.status is Status.RUNNING


def test_an_idle_stop_in_an_older_copy_was_withdrawn_since() -> None:
    kept = running(generation=3, revision=20)
    asked = running(generation=2, desired=Desired.STOPPED, stop_by=BY_IDLE)
    found = decided(kept, asked)
    assert found
    assert found.record == kept
