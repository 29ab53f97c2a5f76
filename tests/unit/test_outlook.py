"""What can be expected of a model, by its replicas."""

from typing import Any

import pytest

from shared.domain.instance import Desired, Status
from shared.domain.outlook import Outlook, Standing, how_far, outlook, progress_of
from tests.builders import an_instance

NOW = 1_000.0


@pytest.mark.parametrize(
    ("status", "node", "standing"),
    [
        (Status.PENDING, "", Standing.QUEUED),
        (Status.PENDING, "one", Standing.LOADING),
        (Status.STARTING, "one", Standing.LOADING),
        (Status.RUNNING, "one", Standing.RUNNING),
        (Status.UNHEALTHY, "one", Standing.LOADING),
        (Status.BACKOFF, "one", Standing.CRASHED),
        (Status.FAILED, "one", Standing.FAILED),
    ],
)
def test_a_model_is_as_its_replica_is(status: Status, node: str, standing: Standing) -> None:
    replica = an_instance(status=status, node=node)
    assert outlook([replica]) == Outlook(standing, replica)


def test_what_is_to_stop_is_no_replica_any_more() -> None:
    replica = an_instance(status=Status.RUNNING, desired=Desired.STOPPED)
    assert outlook([replica]) == Outlook(Standing.IDLE)
    assert outlook([]) == Outlook(Standing.IDLE)


def test_the_replica_that_is_nearest_to_answering_counts() -> None:
    statuses = [Status.FAILED, Status.STARTING, Status.BACKOFF]
    replicas = [an_instance(instance_id=f"i-{status}", status=status) for status in statuses]
    assert outlook(replicas) == Outlook(Standing.LOADING, replicas[1])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"status": Status.PENDING}, "starting on one"),
        ({"status": Status.PENDING, "node": ""}, "in line for a place"),
        ({"status": Status.PENDING, "node": "", "reason": "2nd"}, "in line for a place: 2nd"),
        ({"status": Status.PENDING, "reason": "a\nb  c"}, "starting on one: a b c"),
        ({"status": Status.UNHEALTHY}, "not answering, about to be started again"),
        ({}, "loading"),
        ({"stage": "weights", "progress": 0.5}, "loading 50 %, stage weights"),
        ({"started_at": 990.0, "eta": 1_010.0}, "loading 50 %, ETA 10 s"),
        ({"started_at": 900.0, "eta": 999.0, "stage": "x"}, "loading 99 %, stage x, ETA 0 s"),
    ],
)
def test_how_far_it_is_in_a_few_words(fields: dict[str, Any], said: str) -> None:
    replica = an_instance(**{"status": Status.STARTING, **fields})
    assert how_far(outlook([replica]), NOW) == said


def test_nobody_has_started_it_yet() -> None:
    assert how_far(Outlook(Standing.IDLE), NOW) == "starting"


def test_progress_is_by_time_where_the_end_is_known_and_never_whole_before_it() -> None:
    early = an_instance(started_at=990.0, eta=1_030.0, progress=0.9)
    late = an_instance(started_at=900.0, eta=950.0)
    assert (progress_of(early, NOW), progress_of(late, NOW)) == (0.25, 0.99)
    assert progress_of(an_instance(progress=0.9), NOW) == 0.9
