"""Lines for models, and what has models started: on a real store, with its workers played."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shared.domain.instance import Desired, Instance, Status
from shared.domain.outlook import Standing
from shared.domain.scaling import ScalingRule
from shared.errors import NotFound, TooManyWaiting
from shared.policy import policy
from shared.store import Change, Demand
from shared.store.memory import MemoryStore
from tests.builders import a_node, settings, silent_doorbells
from web.control.creation import Creation
from web.models import starts as model_starts
from web.models.catalogue_file import CatalogueFile
from web.models.replicas import Replicas
from web.models.scaler import Scaler
from web.models.starts import ModelStarts
from web.models.waiting_room import Place, WaitingRoom
from web.tables.activity import Activity
from web.tables.node_table import NodeTable
from web.tables.routing import RoutingTable

MOST = 3


class Process:
    """What a web process has for models on demand, without its threads."""

    def __init__(self, store: MemoryStore, file: Path, *, cancels: bool = True) -> None:
        env = settings()
        self.store = store
        self.file = CatalogueFile(file, policy(env))
        self.file.refresh()
        self.table, self.nodes = RoutingTable(store), NodeTable(store)
        self.activity = Activity(store)
        doorbells = silent_doorbells()
        creation = Creation(env, store, doorbells, policy(env), self.nodes)
        self.replicas = Replicas(store, doorbells, creation, self.table.models, self.nodes)
        self.room = WaitingRoom(self.file, self.replicas, most=MOST)
        self.starts = ModelStarts(
            self.room, self.table, store, self.replicas, self.activity, wait_s=900, cancels=cancels
        )
        self.woken: list[Place] = []

    def enter(self, name: str = "chat") -> Place:
        """Take a place."""
        place: Place = self.room.enter(name, lambda: self.woken.append(place))
        return place

    def look(self) -> None:
        """Hear what has changed, and look at the lines."""
        self.table.refresh()
        self.nodes.refresh()
        self.starts.look()
        self.table.refresh()


class Fleet:
    """Two web processes, and a node whose worker is played."""

    def __init__(self, folder: Path) -> None:
        self.now = 1_000.0
        self.store = MemoryStore(lambda: self.now)
        self.epoch = self.store.announce(a_node(max_instances=5), "worker")
        self.path = folder / "models.yaml"
        self.path.write_text("models: [{name: chat, model: org/tiny, aliases: [other]}]")
        self.one, self.two = Process(self.store, self.path), Process(self.store, self.path)

    def made(self) -> list[Instance]:
        """Return all replicas that have not ended."""
        return [one for one in self.store.instances() if one.catalogue == "chat"]

    def moves(self, instance: Instance, *statuses: Status, **fields: Any) -> None:
        """Have the worker write that."""
        for status in statuses:
            held = self.store.get(instance.instance_id)
            assert held is not None
            change = Change(
                instance_id=held.instance_id,
                node=held.node,
                epoch=self.epoch,
                generation=held.generation,
                status=status,
                fields=fields,
            )
            assert self.store.apply(change)

    def look(self) -> None:
        """Have both processes look."""
        self.store.heartbeat("one", self.epoch)
        self.one.look()
        self.two.look()


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setattr(model_starts, "_GRACE_S", 0.0)
    return Fleet(tmp_path)


def test_a_model_that_is_asked_for_is_started_once(fleet: Fleet) -> None:
    places = [fleet.one.enter(), fleet.two.enter("other"), fleet.one.enter()]
    fleet.look()
    fleet.look()
    (made,) = fleet.made()
    assert (made.model_name, made.params["served_model_name"]) == ("org/tiny", ["chat", "other"])
    assert (made.wanted.queue, made.wanted.evict) == (True, True)
    assert not any(place.is_over for place in places)


def test_who_waits_chooses_again_once_a_replica_takes_requests(fleet: Fleet) -> None:
    place = fleet.one.enter()
    fleet.look()
    fleet.moves(fleet.made()[0], Status.STARTING, Status.RUNNING)
    fleet.look()
    assert (place.is_over, place.error, fleet.one.woken) == (True, None, [place])
    assert fleet.one.room.waiting() == {}


def test_a_replica_that_came_up_meanwhile_lets_in_who_comes_later(fleet: Fleet) -> None:
    fleet.one.enter()
    fleet.look()
    fleet.moves(fleet.made()[0], Status.STARTING, Status.RUNNING)
    place = fleet.two.enter()
    fleet.look()
    assert place.is_over
    assert place.error is None
    assert len(fleet.made()) == 1


@pytest.mark.parametrize("status", [Status.BACKOFF, Status.FAILED])
def test_a_start_that_fails_answers_all_with_the_cause(fleet: Fleet, status: Status) -> None:
    places = [fleet.one.enter(), fleet.one.enter(), fleet.two.enter()]
    fleet.look()
    fields = {"reason": "out of memory", "advice": "take less", "retry_at": fleet.now + 8}
    fleet.moves(fleet.made()[0], Status.STARTING)
    fleet.moves(fleet.made()[0], status, **fields)
    fleet.look()
    for place in places:
        assert "out of memory; take less" in str(place.error)
    assert len(fleet.made()) == 1


def test_after_a_failure_the_next_start_waits_a_while(fleet: Fleet) -> None:
    fleet.one.enter()
    fleet.look()
    first = fleet.made()[0]
    fleet.moves(first, Status.FAILED, reason="no such flag")
    fleet.look()
    fleet.now += 10
    early = fleet.two.enter()
    fleet.look()
    assert "no such flag" in str(early.error)
    assert getattr(early.error, "retry_after_s", None) == 20
    fleet.now += 21
    late = fleet.two.enter()
    fleet.look()
    assert not late.is_over
    ids = {one.instance_id: one.desired for one in fleet.made()}
    assert ids.pop(first.instance_id) is Desired.STOPPED  # its record goes
    assert list(ids.values()) == [Desired.RUNNING]


def test_a_catalogue_that_was_changed_after_the_failure_is_tried_at_once(fleet: Fleet) -> None:
    fleet.one.enter()
    fleet.look()
    fleet.moves(fleet.made()[0], Status.FAILED, reason="no such flag")
    fleet.look()
    fleet.path.write_text("models: [{name: chat, model: org/other}]")
    for process in (fleet.one, fleet.two):
        process.file.refresh()
    place = fleet.one.enter()
    fleet.look()
    assert not place.is_over
    assert [one.model_name for one in fleet.made() if one.counts] == ["org/other"]


def test_a_full_line_takes_nobody_more(fleet: Fleet) -> None:
    for _ in range(MOST):
        fleet.one.enter()
    with pytest.raises(TooManyWaiting, match=f"MODEL_QUEUE allows {MOST}"):
        fleet.one.enter()
    assert fleet.one.room.waiting() == {"chat": MOST}


def test_a_line_is_as_long_as_those_of_all_processes_together(fleet: Fleet) -> None:
    for _ in range(MOST - 1):
        fleet.one.enter()
    last, late = fleet.two.enter(), fleet.two.enter()
    fleet.look()
    assert not last.is_over
    assert isinstance(late.error, TooManyWaiting)
    assert f"{MOST} requests wait for it already" in str(late.error)
    assert fleet.one.room.waiting()["chat"] + fleet.two.room.waiting()["chat"] == MOST


def test_a_place_that_somebody_left_is_free_for_others_elsewhere_at_once(fleet: Fleet) -> None:
    places = [fleet.one.enter() for _ in range(MOST)]
    fleet.look()
    places[0].leave()
    fleet.one.look()
    fresh, late = fleet.two.enter(), fleet.two.enter()
    fleet.two.look()
    assert not fresh.is_over
    assert late.is_over


def test_who_has_a_place_keeps_it_when_the_store_has_forgotten_whose_it_was(fleet: Fleet) -> None:
    kept = [fleet.one.enter() for _ in range(MOST)]
    fleet.look()
    fleet.now += 100.0  # away for so long
    others = [fleet.two.enter() for _ in range(MOST)]
    fleet.two.look()
    fleet.one.starts._told_at = 0.0  # noqa: SLF001 - a second later
    fleet.look()
    assert not any(place.is_over for place in (*kept, *others))


def test_nobody_is_refused_for_those_who_waited_elsewhere_long_ago(fleet: Fleet) -> None:
    elsewhere = [fleet.one.enter() for _ in range(MOST)]
    here = fleet.two.enter()
    fleet.look()
    fleet.look()
    for place in (here, *elsewhere):
        place.leave()
    fleet.look()
    assert not fleet.two.enter().is_over


def test_the_end_of_a_start_is_when_to_come_again_to_a_full_line(fleet: Fleet) -> None:
    for _ in range(MOST):
        fleet.one.enter()
    fleet.look()
    eta = time.time() + 40.5
    fleet.moves(fleet.made()[0], Status.STARTING, eta=eta)
    fleet.look()
    with pytest.raises(TooManyWaiting) as refusal:
        fleet.one.enter()
    assert 30 <= (refusal.value.retry_after_s or 0) <= 41


def test_who_leaves_gives_up_the_place(fleet: Fleet) -> None:
    places = [fleet.one.enter() for _ in range(MOST)]
    places[1].leave()
    places[1].leave()
    fleet.one.enter()
    assert fleet.one.room.waiting() == fleet.one.room.lengths() == {"chat": MOST}
    assert (fleet.two.room.waiting(), fleet.two.room.lengths()) == ({}, {"chat": 0})


def test_a_start_is_cancelled_when_the_last_one_has_left(fleet: Fleet) -> None:
    places = [fleet.one.enter(), fleet.two.enter()]
    fleet.look()
    fleet.moves(fleet.made()[0], Status.STARTING)
    places[0].leave()
    fleet.look()
    assert fleet.made()[0].desired is Desired.RUNNING  # the other process has one who waits
    places[1].leave()
    fleet.look()
    (made,) = fleet.made()
    assert (made.desired, made.stop_by) == (Desired.STOPPED, "unwanted")


def test_who_was_answered_has_not_left(fleet: Fleet) -> None:
    place = fleet.one.enter()
    fleet.look()
    fleet.moves(fleet.made()[0], Status.STARTING)
    fleet.moves(fleet.made()[0], Status.BACKOFF, reason="crashed")
    fleet.look()
    place.leave()
    fleet.look()
    assert fleet.made()[0].desired is Desired.RUNNING  # it is tried again by itself


def test_a_start_goes_on_where_the_operator_says_so(fleet: Fleet) -> None:
    process = Process(fleet.store, fleet.path, cancels=False)
    place = process.enter()
    process.look()
    place.leave()
    process.look()
    assert fleet.made()[0].desired is Desired.RUNNING


def test_a_start_that_nobody_wants_is_not_cancelled_once_it_serves(fleet: Fleet) -> None:
    place = fleet.one.enter()
    fleet.look()
    place.leave()
    fleet.moves(fleet.made()[0], Status.STARTING, Status.RUNNING)
    fleet.look()
    assert fleet.made()[0].desired is Desired.RUNNING


def test_who_has_the_start_stopped_answers_those_who_wait(fleet: Fleet) -> None:
    place = fleet.one.enter()
    fleet.look()
    (made,) = fleet.made()
    fleet.store.stop(made.instance_id, reason="enough", by="user")
    fleet.look()
    assert "was stopped: enough" in str(place.error)
    later = fleet.one.enter()  # what became of that start concerns nobody who comes later
    fleet.look()
    assert not later.is_over


def test_what_becomes_of_a_start_concerns_nobody_who_comes_later(fleet: Fleet) -> None:
    process = Process(fleet.store, fleet.path, cancels=False)
    place = process.enter()
    process.look()
    place.leave()
    process.look()
    fleet.store.stop(fleet.made()[0].instance_id, reason="enough", by="user")
    later = process.enter()
    process.look()
    assert not later.is_over
    assert sum(one.counts for one in fleet.made()) == 1


def test_nobody_waits_for_ever(fleet: Fleet) -> None:
    place = fleet.one.enter()
    place.entered_at -= 901
    fresh = fleet.one.enter()
    fleet.look()
    assert "after 900 s; see MODEL_WAIT" in str(place.error)
    assert not fresh.is_over


def test_a_model_that_is_taken_out_of_the_catalogue_answers_those_who_wait(fleet: Fleet) -> None:
    place = fleet.one.enter()
    fleet.path.write_text("models: []")
    fleet.one.file.refresh()
    fleet.look()
    assert "not in the catalogue any more" in str(place.error)


def test_what_loads_for_a_model_that_is_taken_out_of_the_catalogue_is_cancelled(
    fleet: Fleet,
) -> None:
    fleet.one.enter()
    fleet.look()
    fleet.moves(fleet.made()[0], Status.STARTING)
    fleet.path.write_text("models: []")
    fleet.one.file.refresh()
    fleet.look()
    fleet.look()
    (made,) = fleet.made()
    assert (made.desired, made.stop_by) == (Desired.STOPPED, "unwanted")
    assert fleet.one.room.given_up() == {}


def test_a_model_that_no_node_can_hold_answers_with_the_reason(fleet: Fleet) -> None:
    fleet.path.write_text("models: [{name: chat, model: org/tiny, labels: {gpu: h100}}]")
    fleet.one.file.refresh()
    place = fleet.one.enter()
    fleet.look()
    assert "cannot be started" in str(place.error)
    assert "h100" in str(place.error)


def test_a_model_that_nobody_named_has_no_line(fleet: Fleet) -> None:
    with pytest.raises(NotFound):
        fleet.one.enter("nobody")


def test_how_a_model_is_can_be_listed(fleet: Fleet) -> None:
    entry = fleet.one.room.catalogue.entries["chat"]
    assert fleet.one.room.state(entry).status is Standing.IDLE
    fleet.one.enter()
    fleet.look()
    fleet.moves(fleet.made()[0], Status.STARTING, progress=0.5, stage="weights")
    fleet.look()
    state = fleet.one.room.state(entry)
    assert (state.status, state.waiting, state.progress) == (Standing.LOADING, 1, 0.5)
    fleet.moves(fleet.made()[0], Status.RUNNING)
    fleet.look()
    state = fleet.one.room.state(entry)
    assert (state.status, state.waiting, state.replicas) == (Standing.RUNNING, 0, 1)


def test_what_runs_and_waits_is_told_to_the_store(fleet: Fleet) -> None:
    fleet.one.enter()
    fleet.look()
    fleet.moves(fleet.made()[0], Status.STARTING, Status.RUNNING)
    fleet.look()
    fleet.one.activity.begin(fleet.made()[0].instance_id)
    fleet.one.activity.begin(fleet.made()[0].instance_id)
    fleet.one.starts._told_at = 0.0  # noqa: SLF001 - a second later
    fleet.look()
    assert fleet.store.demand() == {"chat": Demand(running=2)}


def test_places_are_taken_and_left_by_many_threads_at_once(fleet: Fleet) -> None:
    begun = threading.Barrier(8)

    def come_and_go(_: int) -> int:
        begun.wait()
        taken = 0
        for _ in range(200):
            try:
                place = fleet.one.enter()
            except TooManyWaiting:
                continue
            taken += 1
            place.leave()
        return taken

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(come_and_go, range(8))) > 0
    assert fleet.one.room.waiting() == {}


# scaling


def a_scaler(process: Process) -> Scaler:
    """Return the scaler of a process."""
    return Scaler(process.room, process.store, process.replicas, ScalingRule(up_after=4.0))


def scaled(fleet: Fleet, process: Process, scaler: Scaler, now: float) -> list[Instance]:
    """Have one look, and return what counts afterwards."""
    fleet.store.heartbeat("one", fleet.epoch)
    process.table.refresh()
    process.nodes.refresh()
    scaler.look(now)
    return [one for one in fleet.made() if one.counts]


def test_one_process_at_a_time_scales(fleet: Fleet) -> None:
    fleet.path.write_text("models: [{name: chat, model: org/tiny, replicas: {min: 2, max: 2}}]")
    for process in (fleet.one, fleet.two):
        process.file.refresh()
    first, second = a_scaler(fleet.one), a_scaler(fleet.two)
    assert len(scaled(fleet, fleet.one, first, 0.0)) == 2
    for one in fleet.made():
        fleet.store.stop(one.instance_id, reason="", by="user")
    assert not scaled(fleet, fleet.two, second, 2.0)  # the other's turn
    fleet.now += 7.0  # which has ended without a word
    assert len(scaled(fleet, fleet.two, second, 9.0)) == 2
    assert {one.timeout for one in fleet.made()} == {0}


def test_what_has_to_run_or_not_any_more_is_so_for_replicas_that_run_already(
    fleet: Fleet,
) -> None:
    scaler = a_scaler(fleet.one)
    fleet.one.enter()
    fleet.look()
    fleet.moves(fleet.made()[0], Status.STARTING, Status.RUNNING)
    timeouts = []
    for said in ("replicas: {min: 1}, timeout: 7", "timeout: 7", "pinned: true", "timeout: 70"):
        fleet.path.write_text(f"models: [{{name: chat, model: org/tiny, {said}}}]")
        fleet.one.file.refresh()
        (one,) = scaled(fleet, fleet.one, scaler, 0.0)
        timeouts.append(one.timeout)
    assert timeouts == [0, 7, 0, 70]


def test_what_had_to_run_for_a_model_that_is_taken_out_is_stopped_as_idle(fleet: Fleet) -> None:
    fleet.path.write_text("models: [{name: chat, model: org/tiny, replicas: {min: 1}}]")
    fleet.one.file.refresh()
    scaler = a_scaler(fleet.one)
    assert [one.timeout for one in scaled(fleet, fleet.one, scaler, 0.0)] == [0]
    fleet.path.write_text("models: nothing")
    fleet.one.file.refresh()
    fresh = Process(fleet.store, fleet.path)  # has read nothing but the fault
    for process in (fleet.one, fresh):
        fleet.now += 7.0
        assert [one.timeout for one in scaled(fleet, process, a_scaler(process), 0.0)] == [0]
    fleet.path.write_text("models: []")
    fresh.file.refresh()
    fleet.now += 7.0
    (one,) = scaled(fleet, fresh, a_scaler(fresh), 0.0)
    assert one.timeout > 0


def test_a_load_that_lasts_has_replicas_started_and_one_that_is_over_stopped(fleet: Fleet) -> None:
    fleet.path.write_text("models: [{name: chat, model: org/tiny, replicas: {max: 3, target: 10}}]")
    fleet.one.file.refresh()
    scaler = a_scaler(fleet.one)
    fleet.one.enter()
    fleet.look()
    fleet.moves(fleet.made()[0], Status.STARTING, Status.RUNNING)
    fleet.store.tell_demand("x", {"chat": Demand(running=25)}, 1_000)
    counts = [len(scaled(fleet, fleet.one, scaler, at)) for at in (0.0, 2.0, 4.0, 6.0)]
    assert counts == [1, 1, 3, 3]
    fleet.store.tell_demand("x", {"chat": Demand(running=2)}, 1_000)
    counts = [len(scaled(fleet, fleet.one, scaler, at)) for at in (8.0, 66.0, 68.0, 70.0)]
    assert counts == [3, 3, 1, 1]
    (left,) = [one for one in fleet.made() if one.counts]
    assert left.status is Status.RUNNING


def test_a_replica_that_has_to_run_and_fails_is_tried_ever_later(fleet: Fleet) -> None:
    fleet.path.write_text("models: [{name: chat, model: org/tiny, replicas: {min: 1}}]")
    fleet.one.file.refresh()
    scaler = a_scaler(fleet.one)
    (first,) = scaled(fleet, fleet.one, scaler, 0.0)
    fleet.moves(first, Status.FAILED)
    assert not scaled(fleet, fleet.one, scaler, 2.0)
    (second,) = scaled(fleet, fleet.one, scaler, 13.0)
    fleet.moves(second, Status.FAILED)
    assert not scaled(fleet, fleet.one, scaler, 15.0)
    assert not scaled(fleet, fleet.one, scaler, 30.0)
    assert scaled(fleet, fleet.one, scaler, 36.0)
