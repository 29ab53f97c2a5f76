"""The record of an instance: its ids, and every arrow of the status diagram and no other."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.instance import (
    INSTANCE_ID,
    RELEASED,
    Desired,
    Exit,
    Status,
    may_become,
    may_precede,
    new_instance_id,
)
from tests.builders import an_instance

ARROWS = {
    ("pending", "starting"),
    ("pending", "failed"),
    ("pending", "stopping"),
    ("starting", "running"),
    ("starting", "backoff"),
    ("starting", "failed"),
    ("starting", "stopping"),
    ("running", "unhealthy"),
    ("running", "backoff"),
    ("running", "failed"),
    ("running", "stopping"),
    ("unhealthy", "running"),
    ("unhealthy", "backoff"),
    ("unhealthy", "failed"),
    ("unhealthy", "stopping"),
    ("backoff", "starting"),
    ("backoff", "failed"),
    ("backoff", "stopping"),
    ("failed", "stopping"),
    ("stopping", "stopped"),
    ("stopping", "stop_failed"),
    ("stop_failed", "stopping"),
    ("stop_failed", "stopped"),
}
"""The diagram, written out."""

PAIRS = [(before.value, after.value) for before, after in permutations(Status, 2)]
MISSING = [pair for pair in PAIRS if pair not in ARROWS]


@pytest.mark.parametrize(("before", "after"), sorted(ARROWS))
def test_an_instance_may_follow_each_arrow(before: str, after: str) -> None:
    assert Status(after) in may_become(Status(before))


@pytest.mark.parametrize(("before", "after"), MISSING)
def test_an_instance_may_not_become_what_no_arrow_leads_to(before: str, after: str) -> None:
    assert Status(after) not in may_become(Status(before))


@pytest.mark.parametrize("status", Status)
def test_what_may_precede_a_status_is_the_other_end_of_its_arrows(status: Status) -> None:
    assert may_precede(status) == {before for before in Status if status in may_become(before)}


def test_nothing_comes_after_stopped() -> None:
    assert may_become(Status.STOPPED) == frozenset()


@pytest.mark.parametrize("status", set(Status) - {Status.STOPPING, Status.STOPPED})
def test_every_instance_that_has_not_ended_can_be_stopped(status: Status) -> None:
    assert Status.STOPPING in may_become(status)


def test_a_stop_that_failed_keeps_its_claim() -> None:
    assert Status.STOP_FAILED not in RELEASED


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ("pending", "stopping"),
        ("starting", "stopping"),
        ("running", "stopping"),
        ("unhealthy", "stopping"),
        ("backoff", "stopping"),
        ("failed", "stopping"),
        ("stopping", "stopping"),
        ("stopped", "stopped"),
        ("stop_failed", "stop_failed"),
    ],
)
def test_an_instance_asked_to_stop_shows_it_at_once(status: str, shown: str) -> None:
    assert an_instance(status=Status(status), desired=Desired.STOPPED).shown_status == shown


@pytest.mark.parametrize("status", Status)
def test_an_instance_that_is_to_run_shows_its_own_status(status: Status) -> None:
    assert an_instance(status=status).shown_status is status


@pytest.mark.parametrize("status", Status)
def test_only_a_running_instance_serves(status: Status) -> None:
    assert an_instance(status=status).serving is (status is Status.RUNNING)


def test_a_running_instance_asked_to_stop_serves_no_more() -> None:
    assert not an_instance(status=Status.RUNNING, desired=Desired.STOPPED).serving


@pytest.mark.parametrize("status", Status)
def test_only_a_stopped_instance_has_ended(status: Status) -> None:
    assert an_instance(status=status).ended is (status is Status.STOPPED)


def test_the_engine_key_is_not_in_the_repr() -> None:
    assert "hush" not in repr(an_instance(engine_key="hush"))


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (Exit(code=2, signal=None, at=1.0), "exited with status 2"),
        (Exit(code=None, signal=9, at=1.0), "ended by signal 9"),
        (Exit(code=None, signal=None, at=None), "ended without a trace"),
    ],
)
def test_an_exit_says_how_it_was(ended: Exit, said: str) -> None:
    assert str(ended) == said


@pytest.mark.parametrize(
    ("model_name", "slug"),
    [
        ("org/Qwen3-8B", "qwen3-8b"),
        ("/models/SmolLM2-135M-Instruct/", "smollm2-135m-instruct"),
        ("a__b..c", "a-b-c"),
        ("模型", "model"),
        ("///", "model"),
        ("x" * 300, "x" * 48),
        ("-" + "x" * 46 + "-y", "x" * 46 + "-y"),
        ("x" * 47 + "-y", "x" * 47),
    ],
)
def test_an_id_begins_with_the_slug_of_the_model(model_name: str, slug: str) -> None:
    assert new_instance_id(model_name).rpartition("-")[0] == slug


@given(st.text())
def test_an_id_is_a_dns_label_whatever_the_model(model_name: str) -> None:
    assert INSTANCE_ID.fullmatch(new_instance_id(model_name))


def test_ids_of_one_model_differ() -> None:
    assert len({new_instance_id("org/tiny") for _ in range(1_000)}) == 1_000


@pytest.mark.parametrize(
    "text", ["", "-a", "a-", "A", "a.b", "a/b", "..", "a\n", "a" * 64, "ä", "a b", "a_b"]
)
def test_what_is_no_dns_label_is_no_id(text: str) -> None:
    assert INSTANCE_ID.fullmatch(text) is None
