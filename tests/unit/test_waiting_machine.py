"""Models on demand under anything that may happen, in any order: two processes and one node."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from shared.domain.instance import Desired, Instance, Status, may_become
from shared.errors import TooManyWaiting
from shared.placing import Placing, serve_line
from tests.builders import settings as a_settings
from tests.builders import silent_doorbells
from tests.unit.test_waiting_room import MOST, Fleet
from web.models.waiting_room import Place

WHICH = st.sampled_from(["one", "two"])
BY_ITSELF = [Status.STARTING, Status.RUNNING, Status.BACKOFF, Status.FAILED, Status.UNHEALTHY]


class Machine(RuleBasedStateMachine):
    """People come and go, replicas load, crash and stop; nobody is forgotten or started twice."""

    places = Bundle("places")

    @initialize()
    def begin(self) -> None:
        """Start with nothing that runs."""
        with tempfile.TemporaryDirectory() as folder:  # the catalogue is read once
            self.fleet = Fleet(Path(folder))
        self.inside: list[Place] = []

    @rule(target=places, which=WHICH)
    def come(self, which: str) -> Place | None:
        """Take a place, unless the line is full."""
        try:
            place: Place = getattr(self.fleet, which).enter()
        except TooManyWaiting:
            return None
        self.inside.append(place)
        return place

    @rule(place=places)
    def go(self, place: Place | None) -> None:
        """Give a place up, perhaps not for the first time."""
        if place is not None:
            place.leave()
            self.inside = [one for one in self.inside if one is not place]

    @rule(seconds=st.sampled_from([0.0, 1.0, 7.0, 31.0]))
    def look(self, seconds: float) -> None:
        """Let time pass, and have both processes look."""
        self.fleet.now += seconds
        self.fleet.look()

    @rule(which=WHICH)
    def one_looks(self, which: str) -> None:
        """Have one process look, before the other has heard anything."""
        self.fleet.store.heartbeat("one", self.fleet.epoch)
        getattr(self.fleet, which).look()

    @rule(status=st.sampled_from(BY_ITSELF), number=st.integers(0, 3))
    def moves(self, status: Status, number: int) -> None:
        """Have the node's worker see something become of a replica."""
        able = [
            one
            for one in self._made(Desired.RUNNING)
            if one.node and status in may_become(one.status)
        ]
        if able:
            self.fleet.moves(able[number % len(able)], status, reason="so it is")

    @rule(by=st.sampled_from(["user", "idle", "evict", "drain"]), number=st.integers(0, 3))
    def stop(self, by: str, number: int) -> None:
        """Have a replica asked to stop."""
        if made := self._made(Desired.RUNNING):
            name = made[number % len(made)].instance_id
            self.fleet.store.stop(name, reason="enough", by=by)

    @rule()
    def stopped(self) -> None:
        """Have what is asked to stop be gone."""
        for one in self._made(Desired.STOPPED):
            held = self.fleet.store.get(one.instance_id)
            if held is not None and Status.STOPPING in may_become(held.status):
                self.fleet.moves(one, Status.STOPPING)
            held = self.fleet.store.get(one.instance_id)
            if held is not None and Status.STOPPED in may_become(held.status):
                self.fleet.moves(one, Status.STOPPED)

    @rule()
    def serve(self) -> None:
        """Have the line for places served."""
        doorbells = silent_doorbells()
        serve_line(self.fleet.store, doorbells, Placing.of(a_settings()), who="test")

    @invariant()
    def there_is_one_replica_at_most(self) -> None:
        """Hold what the catalogue says: one replica that counts."""
        if hasattr(self, "fleet"):
            assert sum(one.counts for one in self.fleet.made()) <= 1

    @invariant()
    def lines_hold_who_waits(self) -> None:
        """Hold in each line exactly those that have come, have not left and were not answered."""
        if not hasattr(self, "fleet"):
            return
        for process in (self.fleet.one, self.fleet.two):
            waiting = [one for one in self.inside if one._room is process.room]  # noqa: SLF001
            length = sum(not one.is_over for one in waiting)
            assert process.room.waiting().get("chat", 0) == length <= MOST

    def teardown(self) -> None:
        """See that everybody who still waits is let in, once a replica can run."""
        if not hasattr(self, "fleet"):
            return
        self.stopped()
        for _ in range(8):
            self.fleet.now += 31.0
            self.fleet.look()
            self.stopped()
            self.serve()
            for one in self._made(Desired.RUNNING):
                for status in (Status.STARTING, Status.RUNNING):
                    held = self.fleet.store.get(one.instance_id)
                    if held is not None and held.node and status in may_become(held.status):
                        self.fleet.moves(one, status)
        self.fleet.look()
        assert all(place.is_over for place in self.inside)

    def _made(self, desired: Desired) -> list[Instance]:
        return [one for one in self.fleet.made() if one.desired is desired]


Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestModelsOnDemand = Machine.TestCase
