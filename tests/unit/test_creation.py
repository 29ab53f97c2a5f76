"""A new instance among many at once, and behind a long line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shared.domain.instance import Instance
from shared.errors import NoCapacity
from shared.policy import policy
from shared.store.memory import MemoryStore
from tests.builders import a_gpu, a_node, an_instance, settings, silent_doorbells
from web.control.creation import Creation
from web.control.schemas import CreateRequest
from web.control.standing import Standings
from web.tables.node_table import NodeTable

GPUS = 40


class Crowded(MemoryStore):
    """A store in which somebody else is faster at each place, `rivals` times."""

    def __init__(self, rivals: int) -> None:
        super().__init__(lambda: 1_000.0)
        self.rivals = rivals

    def create(self, instance: Instance, max_instances: int, **more: Any) -> bool:
        if instance.node and self.rivals:
            self.rivals -= 1
            rival = replace(instance, instance_id=f"rival-{self.rivals}")
            assert super().create(rival, max_instances)
        return super().create(instance, max_instances, **more)


def a_fleet(rivals: int) -> tuple[Crowded, NodeTable, Creation]:
    store, env = Crowded(rivals), settings()
    store.announce(
        a_node(max_instances=GPUS, gpus=tuple(a_gpu(index) for index in range(GPUS))), "worker"
    )
    nodes = NodeTable(store)
    doorbells = silent_doorbells()
    return store, nodes, Creation(env, store, doorbells, policy(env), nodes)


def test_who_loses_many_races_gets_a_place_while_there_is_one() -> None:
    store, _, creation = a_fleet(rivals=GPUS - 1)
    made, is_new = creation.create(CreateRequest(model_name="org/tiny"), who="ann")
    assert is_new
    assert (made.node, made.gpus) == ("one", (f"GPU-{GPUS - 1}",))
    assert len(store.instances()) == GPUS


def test_who_loses_the_last_place_is_told_or_waits() -> None:
    _, _, creation = a_fleet(rivals=GPUS)
    with pytest.raises(NoCapacity, match="one runs 40 of at most 40 instances"):
        creation.create(CreateRequest(model_name="org/tiny"), who="ann")
    made, _ = creation.create(CreateRequest(model_name="org/tiny", queue=True), who="ann")
    assert made.waiting


def test_a_new_one_behind_a_long_line_is_told_how_many_it_would_be() -> None:
    store, nodes, _ = a_fleet(rivals=0)
    for number in range(120):
        assert store.create(an_instance(instance_id=f"w{number}", node=""), 0)
    nodes.refresh()
    asked = an_instance(node="")
    assert Standings(store, nodes).of_new(asked).position == 121
    urgent = replace(asked, wanted=replace(asked.wanted, priority=1))
    assert Standings(store, nodes).of_new(urgent).position == 1
