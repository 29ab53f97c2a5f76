"""The line is served from what the store says, whoever does it, however often."""

from __future__ import annotations

from typing import Any

import pytest

from shared.domain.eviction import QUIET_S
from shared.domain.instance import Desired, Instance, Status
from shared.domain.placement import Rule
from shared.domain.wanted import Wanted
from shared.placing import Placing, room_for, serve_line
from shared.store import Change
from shared.store.memory import MemoryStore
from tests.builders import a_gpu, a_node, an_instance, silent_doorbells

PLACING = Placing(rule=Rule.PACK, evict_after_s=0.0)


class Machine:
    """The node `one` with a device, and a store whose time only passes when told to."""

    def __init__(self) -> None:
        self.time = 1_000.0
        self.store = MemoryStore(clock=lambda: self.time)
        self.doorbells = silent_doorbells()
        self.node = a_node(name="one", max_instances=9, gpus=(a_gpu(0),))
        self.epoch = self.store.announce(self.node, "worker")

    def serve(self) -> list[str]:
        """Serve the line, some time later."""
        self.time += 0.5
        self.store.heartbeat("one", self.epoch)
        return serve_line(self.store, self.doorbells, PLACING, who="one")

    def got(self, name: str) -> Instance:
        record = self.store.get(name)
        assert record is not None
        return record

    def move(self, name: str, *statuses: Status) -> None:
        for status in statuses:
            change = Change(
                instance_id=name,
                node="one",
                epoch=self.epoch,
                generation=self.got(name).generation,
                status=status,
            )
            assert self.store.apply(change)

    def running(self, name: str) -> None:
        assert self.store.create(an_instance(instance_id=name, gpus=("GPU-0",)), 9)
        self.move(name, Status.STARTING, Status.RUNNING)
        self.time += QUIET_S

    def waits(self, name: str, **wanted: Any) -> None:
        wants = Wanted(**wanted)
        assert self.store.create(an_instance(instance_id=name, node="", wanted=wants), 0)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_nobody_is_served_where_nobody_waits(machine: Machine) -> None:
    assert machine.serve() == []


def test_who_waits_is_served_when_somebody_has_gone(machine: Machine) -> None:
    machine.running("i0")
    machine.waits("i1")
    assert machine.serve() == []
    machine.store.stop("i0", reason="", by="user")
    machine.move("i0", Status.STOPPING, Status.STOPPED)
    assert machine.serve() == ["i1"]
    assert machine.serve() == []
    assert machine.got("i1").gpus == ("GPU-0",)


def test_idle_ones_go_for_those_that_may_ask_for_it(machine: Machine) -> None:
    machine.running("i0")
    machine.waits("patient")
    machine.serve()
    assert machine.got("i0").desired is Desired.RUNNING
    machine.waits("pushing", evict=True, priority=1)
    assert machine.serve() == []
    assert machine.got("i0").stop_by == "evict"
    assert machine.got("pushing").reserved is not None
    assert machine.serve() == []  # it is still leaving
    machine.move("i0", Status.STOPPING, Status.STOPPED)
    assert machine.serve() == ["pushing"]


def test_a_reservation_is_given_up_when_its_victim_stays(machine: Machine) -> None:
    machine.running("i0")
    machine.waits("i1", evict=True)
    machine.serve()
    machine.store.touch(["i0"])
    machine.serve()
    assert machine.got("i0").serving
    assert machine.got("i1").reserved is None
    machine.time += QUIET_S
    machine.serve()  # nobody has used it since
    assert machine.got("i0").stop_by == "evict"


def test_what_is_reserved_on_a_node_that_is_lost_is_given_up(machine: Machine) -> None:
    machine.running("i0")
    machine.waits("i1", evict=True)
    machine.serve()
    assert machine.got("i1").reserved is not None
    machine.time += 60.0
    serve_line(machine.store, machine.doorbells, PLACING, who="two")
    assert machine.got("i1").reserved is None


def test_no_room_is_made_by_one_that_is_used(machine: Machine) -> None:
    machine.running("i0")
    machine.store.touch(["i0"])
    machine.waits("i1", evict=True)
    assert room_for(machine.store, machine.store.nodes(), machine.got("i1"), PLACING) is None
    machine.serve()
    assert machine.got("i0").desired is Desired.RUNNING


def test_one_process_serves_at_a_time(machine: Machine) -> None:
    machine.waits("i1")
    assert machine.store.lease("line", "another", 60.0)
    assert machine.store.lease("line-next", "a third", 60.0)
    assert machine.serve() == []
    machine.store.end_lease("line", "another")
    assert machine.serve() == ["i1"]
