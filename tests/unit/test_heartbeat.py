"""What a node tells with its heartbeats, and what it hears; on a store in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.domain.instance import BY_DRAIN, Desired, Instance, Status
from shared.domain.node import Gpu, GpuMemory, Load, Node, NodeReport
from shared.domain.wanted import Wanted
from shared.store import Beat
from shared.store.memory import MemoryStore
from tests.builders import a_node, an_instance
from tests.demo.waiting import until
from workers import manifest
from workers.heartbeat import Heartbeat
from workers.prober import Prober
from workers.reporting import Reporting, settled

GPU = Gpu(index=0, uuid="SIM-one-0", name="simulated", total_mib=1000, simulated=True)
RUNNING: dict[str, Any] = {"status": Status.RUNNING, "ready_at": 1.0}


class Bench:
    """A node with one simulated GPU, and its heart."""

    def __init__(self, folder: Path, prober: Prober, store: MemoryStore) -> None:
        self.folder = folder
        self.store = store
        self.told: list[NodeReport | None] = []
        self.reporting = Reporting(
            (GPU,),
            engines_dir=folder / "engines",
            models_dir=folder / "models",
            hub=folder / "hub",
            prober=prober,
        )
        self.heart = Heartbeat(a_node(gpus=(GPU,)), store, folder, self.reporting)
        self.heart.announce()

    @property
    def node(self) -> Node:
        node = self.store.node("one")
        assert node
        return node

    def beat(self, *records: Instance, **loads: Load) -> Beat:
        return self.heart.beat(records, loads)

    def settle(self, *records: Instance, **loads: Load) -> None:
        """Beat until what is looked up has been told."""

        def told() -> bool:
            self.beat(*records, **loads)
            return not self.reporting.waits_to_tell

        assert until(told, 20)
        self.beat(*records, **loads)


@pytest.fixture
def prober() -> Iterator[Prober]:
    with Prober(lambda: None) as prober:
        yield prober


@pytest.fixture
def bench(tmp_path: Path, prober: Prober) -> Bench:
    return Bench(tmp_path, prober, MemoryStore())


def test_a_node_is_lost_until_its_first_beat(bench: Bench) -> None:
    assert bench.node.lost
    assert bench.heart.due_in_s == 0.0
    assert bench.beat() is Beat.OK
    assert not bench.node.lost
    assert 0.0 < bench.heart.due_in_s <= 0.5, "what is free is told as soon as it is known"
    bench.settle()
    assert 4.0 < bench.heart.due_in_s <= 5.0
    bench.heart.hasten()
    assert bench.heart.due_in_s == 0.0


def test_what_is_free_and_what_runs_is_told(bench: Bench) -> None:
    record = an_instance(**RUNNING, gpus=("SIM-one-0",), wanted=Wanted(share=0.4))
    name = record.instance_id
    loading = replace(record, instance_id="other", status=Status.STARTING)
    loads = {name: Load(2, 5), "other": Load(9, 9)}

    def told() -> bool:
        bench.settle(record, loading, **loads)
        return bench.node.gpus[0].free_mib == 600

    assert until(told, 20), bench.node
    assert bench.node.loads == {name: Load(2, 5)}
    assert bench.node.gpus[0].foreign_mib == 0


def test_an_engine_that_stops_still_has_its_memory(bench: Bench) -> None:
    record = an_instance(gpus=("SIM-one-0",), ready_at=1.0, status=Status.STOPPING)
    again = replace(record, instance_id="again", status=Status.STARTING)
    bench.settle(record, again)
    assert bench.node.loads.keys() == {record.instance_id}


def test_what_has_not_changed_is_not_told_again(bench: Bench) -> None:
    bench.settle()
    cursor = bench.store.nodes_since("").cursor
    for _ in range(3):
        bench.beat()
    assert bench.store.nodes_since(cursor).found == {}


def test_a_store_that_has_lost_the_node_is_told_all_again(bench: Bench) -> None:
    (bench.folder / "models" / "mine").mkdir(parents=True)
    (bench.folder / "models" / "mine" / "model.bin").touch()
    bench.settle()
    assert bench.node.models == {"mine"}
    bench.heart.announce()
    assert bench.node.models == frozenset()
    bench.beat()
    assert bench.node.models == {"mine"}


def test_a_report_that_did_not_arrive_is_told_again(bench: Bench, prober: Prober) -> None:
    bench.settle()
    other = Heartbeat(a_node(gpus=(GPU,)), bench.store, bench.folder, bench.reporting)
    other.announce()  # a newer worker: the store takes nothing of this one
    bench.reporting.tell_anew()
    assert bench.beat(an_instance(**RUNNING)) is Beat.SUPERSEDED
    assert bench.reporting.news((), {}) is not None
    del prober


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (GpuMemory(969, 0), GpuMemory(1000, 0)),
        (GpuMemory(1031, 31), GpuMemory(1000, 0)),
        (GpuMemory(968, 0), GpuMemory(968, 0)),
        (GpuMemory(1000, 32), GpuMemory(1000, 32)),
        (GpuMemory(None), GpuMemory(None)),
    ],
)
def test_memory_that_only_wobbles_is_told_as_before(now: GpuMemory, told: GpuMemory) -> None:
    assert settled({"GPU-0": now}, {"GPU-0": GpuMemory(1000, 0)}) == {"GPU-0": told}
    assert settled({"GPU-0": now}, {}) == {"GPU-0": now}


# what an operator asks


def test_instances_of_a_draining_node_are_asked_to_leave(bench: Bench) -> None:
    bench.beat()
    bench.store.create(an_instance(), 9)
    bench.store.create(an_instance(instance_id="replica", catalogue="chat"), 9)
    bench.heart.have_leave(bench.store.placed_on("one"))
    assert all(r.desired is Desired.RUNNING for r in bench.store.instances())
    bench.store.cordon("one", drain=True)
    bench.beat()
    bench.heart.have_leave(bench.store.placed_on("one"))
    left = bench.store.get(an_instance().instance_id)
    assert left
    assert (left.desired, left.stop_by, left.stop_reason) == (
        Desired.STOPPED,
        BY_DRAIN,
        "node one is drained",
    )
    stays = bench.store.get("replica")
    assert stays
    assert stays.desired is Desired.RUNNING, "until another is up elsewhere"


def test_one_that_cannot_be_read_any_more_keeps_no_other_from_leaving(bench: Bench) -> None:
    for name in ("a", "b"):
        bench.store.create(an_instance(instance_id=name), 9)
    records = bench.store.placed_on("one")
    bench.store.damage("a")
    bench.store.cordon("one", drain=True)
    bench.beat()
    bench.heart.have_leave(records)
    (left,) = bench.store.placed_on("one")
    assert (left.instance_id, left.stop_by) == ("b", BY_DRAIN)


def test_after_an_uncordon_nobody_is_asked_to_leave(bench: Bench) -> None:
    bench.store.create(an_instance(), 9)
    bench.store.cordon("one", drain=True)
    bench.beat()
    bench.store.uncordon("one")
    bench.beat()
    bench.heart.have_leave(bench.store.placed_on("one"))
    assert bench.store.instances()[0].desired is Desired.RUNNING


@pytest.mark.parametrize("drain", [False, True])
def test_a_node_tells_an_emptied_store_that_it_was_cordoned(
    bench: Bench, prober: Prober, *, drain: bool
) -> None:
    bench.store.cordon("one", drain=drain)
    bench.beat()
    emptied = Bench(bench.folder, prober, MemoryStore())
    assert (emptied.node.cordoned, emptied.node.draining) == (True, drain)
    assert emptied.node.epoch > bench.node.epoch
    emptied.store.uncordon("one")
    emptied.beat()
    assert not Bench(bench.folder, prober, MemoryStore()).node.cordoned


def test_a_full_disk_does_not_keep_a_node_from_beating(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "keep_node", full)
    bench.store.cordon("one")
    assert bench.beat() is Beat.CORDONED
    assert "could not be kept" in caplog.text


def test_a_driver_that_says_nothing_is_told_as_that() -> None:
    node = a_node(gpus=(GPU,))
    assert NodeReport().told_of(node).gpus[0].free_mib is None
    told = NodeReport(memory={"SIM-one-0": GpuMemory(7, 3)}).told_of(node).gpus[0]
    assert (told.free_mib, told.foreign_mib) == (7, 3)
