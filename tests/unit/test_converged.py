"""When a DELETE that waits has its answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.domain.instance import Instance, Status
from web.control.instances import converged_since

ASKED = 3
FAILED_BEFORE = Instance(
    instance_id="tiny-1",
    model_name="org/tiny",
    params={},
    timeout=0,
    node="one",
    status=Status.STOP_FAILED,
    generation=2,
    observed_generation=2,
)


@pytest.mark.parametrize(
    ("generation", "observed", "status", "is_over"),
    [
        (2, 2, Status.STOP_FAILED, False),  # as a routing table has it that has not heard yet
        (3, 2, Status.STOP_FAILED, False),  # it is to be tried once more
        (3, 3, Status.STOPPING, False),
        (3, 3, Status.STOP_FAILED, True),
        (3, 3, Status.STOPPED, True),
    ],
)
def test_an_older_record_says_nothing_of_a_stop(
    generation: int, observed: int, status: Status, *, is_over: bool
) -> None:
    record = replace(
        FAILED_BEFORE, generation=generation, observed_generation=observed, status=status
    )
    assert converged_since(ASKED)(record) is is_over
