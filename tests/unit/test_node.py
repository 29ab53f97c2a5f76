"""A node: when it counts as lost, and what of it is free."""

import pytest

from shared.domain.node import Claim
from tests.builders import a_gpu, a_node


@pytest.mark.parametrize(
    ("age", "lost"), [(None, True), (0.0, False), (15.0, False), (15.1, True), (9e9, True)]
)
def test_a_node_is_lost_after_three_missed_heartbeats(age: float | None, lost: bool) -> None:
    assert a_node(heartbeat_age_s=age).lost is lost


@pytest.mark.parametrize(("most", "claims", "free"), [(3, 0, 3), (3, 2, 1), (3, 3, 0), (1, 3, 0)])
def test_free_slots_are_what_claims_leave(most: int, claims: int, free: int) -> None:
    held = tuple(Claim(instance_id=f"i{number}") for number in range(claims))
    assert a_node(max_instances=most, claims=held).free_slots == free


def test_free_gpus_are_those_that_no_claim_holds() -> None:
    gpus = tuple(a_gpu(index) for index in range(4))
    claims = (
        Claim(instance_id="i1", shares={"GPU-1": 1000}),
        Claim(instance_id="i2", shares={"GPU-3": 1000}),
    )
    assert [gpu.index for gpu in a_node(gpus=gpus, claims=claims).free_gpus] == [0, 2]
