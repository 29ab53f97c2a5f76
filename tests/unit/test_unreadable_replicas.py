"""Replicas whose records cannot be read are left alone, and keep nobody from others."""

# ruff: noqa: F811 - the fixture is asked for by its name

from __future__ import annotations

import pytest

from shared.domain.instance import Desired, Instance
from shared.errors import ModelUnavailable, RecordUnreadable
from tests.unit.test_waiting_room import Fleet, fleet  # noqa: F401 - a fixture


def a_replica(fleet: Fleet) -> Instance:
    """Have one started for somebody; return it, known to all."""
    fleet.one.enter()
    fleet.look()
    fleet.look()
    (replica,) = fleet.made()
    return replica


def test_it_is_not_asked_to_stop(fleet: Fleet) -> None:
    replica = a_replica(fleet)
    fleet.store.damage(replica.instance_id)
    fleet.one.replicas.stop(replica, "not wanted any more", by="scale")
    fleet.store.damage()
    assert fleet.store.several([replica.instance_id]) == {replica.instance_id: replica}
    assert replica.desired is Desired.RUNNING


def test_another_is_made_beside_it(fleet: Fleet) -> None:
    entry = fleet.one.file.current.entries["chat"]
    replica = a_replica(fleet)
    fleet.store.damage(replica.instance_id)
    with pytest.raises(RecordUnreadable, match=replica.instance_id):
        fleet.one.replicas.start(entry, at_most=1)
    made = fleet.one.replicas.start(entry, at_most=2)
    assert made is not None
    assert [one.instance_id for one in fleet.made()] == [made.instance_id]


def test_who_waits_for_one_that_a_new_process_cannot_read_is_told_so(fleet: Fleet) -> None:
    replica = a_replica(fleet)
    fleet.store.damage(replica.instance_id)
    fleet.two = type(fleet.two)(fleet.store, fleet.path)
    place = fleet.two.enter()
    fleet.two.look()
    assert isinstance(place.error, ModelUnavailable)
    assert "its record cannot be read" in str(place.error)
