"""Who leaves a node that is drained, and when."""

from __future__ import annotations

from typing import Any

import pytest

from shared.domain.drain import BY_DRAIN, REPLACED_WITHIN_S, leaves, leaves_at_once
from shared.domain.instance import (
    BY_EVICT,
    BY_IDLE,
    Desired,
    Status,
    asks_once_more,
    takes_over,
)
from shared.domain.reconcile import Action, Observation, Patience, Remains, plan
from tests.builders import an_instance


@pytest.mark.parametrize(
    ("changes", "drained_for_s", "expected"),
    [
        ({}, 0.0, True),
        ({"catalogue": "chat"}, 0.0, False),
        ({"catalogue": "chat"}, REPLACED_WITHIN_S, True),
        ({"desired": Desired.STOPPED, "stop_by": "user"}, 9e9, False),
        ({"desired": Desired.STOPPED, "stop_by": BY_DRAIN}, 9e9, False),
        ({"desired": Desired.STOPPED, "stop_by": BY_IDLE}, 0.0, True),
        ({"desired": Desired.STOPPED, "stop_by": BY_EVICT}, 0.0, True),
    ],
)
def test_an_instance_leaves_at_once_and_a_replica_once_it_should_have_been_replaced(
    changes: dict[str, Any], drained_for_s: float, *, expected: bool
) -> None:
    assert leaves(an_instance(**changes), drained_for_s) is expected
    if drained_for_s == 0.0:
        assert leaves_at_once(an_instance(**changes)) is expected


@pytest.mark.parametrize(
    ("by", "held_by", "expected"),
    [
        ("user", "idle", True),
        ("user", "evict", True),
        ("user", "drain", True),
        ("user", "user", False),
        ("drain", "idle", True),
        ("drain", "drain", False),
        ("drain", "user", False),
        ("idle", "idle", False),
        ("idle", "drain", False),
        ("idle", "", False),
    ],
)
def test_a_firmer_stop_takes_over(by: str, held_by: str, *, expected: bool) -> None:
    assert takes_over(by, held_by) is expected


def test_only_a_person_asks_once_more() -> None:
    assert [asks_once_more(by) for by in ("user", "drain", "idle", "evict")] == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("by", "waited_s", "expected"),
    [
        ("user", 29.0, Action.WAIT),
        ("user", 31.0, Action.TERMINATE),
        (BY_DRAIN, 31.0, Action.WAIT),
        (BY_DRAIN, 899.0, Action.WAIT),
        (BY_DRAIN, 901.0, Action.TERMINATE),
    ],
)
def test_requests_of_a_drained_node_may_take_their_time(
    by: str, waited_s: float, expected: Action
) -> None:
    record = an_instance(status=Status.STOPPING, desired=Desired.STOPPED, stop_by=by)
    patience = Patience(start_stall=600.0, drain=30.0, drain_node=900.0, stop=20.0)
    seen = Observation(remains=Remains.ALIVE, busy=True, stop_begun_at=1000.0)
    assert plan(record, seen, 1000.0 + waited_s, patience) is expected


def test_a_drained_engine_without_requests_ends_at_once() -> None:
    record = an_instance(status=Status.STOPPING, desired=Desired.STOPPED, stop_by=BY_DRAIN)
    seen = Observation(remains=Remains.ALIVE, busy=False, stop_begun_at=1000.0)
    patience = Patience(start_stall=600.0, drain=30.0, stop=20.0)
    assert plan(record, seen, 1000.0, patience) is Action.TERMINATE
