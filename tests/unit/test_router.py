"""Who goes by which name, and which replica a request goes to, by what a process knows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest

from shared.domain.choice import Routing, point_of
from shared.domain.instance import Instance, Status
from shared.domain.key import Scope
from shared.errors import InstanceNotReady, ModelNotFound
from shared.store.memory import MemoryStore
from tests.builders import an_instance
from web.access.auth import LOCAL, Principal
from web.models.router import Router
from web.tables.activity import Activity
from web.tables.by_name import Models

ANN = Principal(name="ann", key_id="a", scope=Scope.INFERENCE, models=("org/*",))
BOB = Principal(name="bob", key_id="b", scope=Scope.INFERENCE, models=("other/*",))


def running(number: int, model: str = "org/tiny", **changes: object) -> Instance:
    """Return a running instance."""
    plain = {"status": Status.RUNNING, "host": "10.0.0.1", "port": 9000 + number}
    return an_instance(instance_id=f"i{number}", model_name=model, **{**plain, **changes})


@dataclass
class Fleet:
    """What one process knows."""

    models: Models = field(default_factory=Models)
    activity: Activity = field(default_factory=lambda: Activity(MemoryStore()))
    waiting: dict[str, int] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)

    def router(self, routing: Routing = Routing.LEAST) -> Router:
        """Return the router upon it."""
        return Router(
            self.models,
            self.activity,
            routing,
            reported_waiting=lambda name: self.waiting.get(name, 0),
            is_lost=lambda name: name in self.lost,
        )


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def chosen(router: Router, name: str = "org/tiny", point: int | None = None) -> str:
    """Return the id of the replica for a request."""
    instance = router.choose(router.replicas(name, LOCAL), point)
    assert instance is not None
    return instance.instance_id


# names


def test_an_instance_goes_by_all_that_it_is_called(fleet: Fleet) -> None:
    params = {
        "served_model_name": ["small", "tiny"],
        "lora_modules": ["sql=/a/b", {"name": "poet", "path": "/c"}, '{"name":"cook","path":"/d"}'],
    }
    fleet.models.put(running(1, params=params, catalogue="chat"))
    assert fleet.models.names() == ("chat", "cook", "poet", "small", "sql", "tiny")
    for name in fleet.models.names():
        assert [replica.instance.instance_id for replica in fleet.models.replicas(name)] == ["i1"]
    assert not fleet.models.replicas("org/tiny")  # vLLM does not take it either


def test_who_does_not_run_takes_nothing_and_is_known(fleet: Fleet) -> None:
    for status in (Status.RUNNING, Status.BACKOFF, Status.RUNNING):
        fleet.models.put(running(1, status=status))
        assert bool(fleet.models.replicas("org/tiny")) is (status is Status.RUNNING)
        assert [i.status for i in fleet.models.instances("org/tiny")] == [status]
    fleet.models.drop("i1")
    fleet.models.drop("i1")
    assert not fleet.models.names()
    assert not fleet.models.replicas("org/tiny")
    assert not fleet.models.instances("org/tiny")


def test_one_that_has_moved_is_found_where_it_is(fleet: Fleet) -> None:
    fleet.models.put(running(1))
    before = fleet.models.replicas("org/tiny")
    fleet.models.put(running(1, progress=0.5))
    assert fleet.models.replicas("org/tiny") is before
    fleet.models.put(running(1, port=9999))
    assert [replica.instance.port for replica in fleet.models.replicas("org/tiny")] == [9999]


def test_replicas_stand_by_their_points(fleet: Fleet) -> None:
    for number in range(40):
        fleet.models.put(running(number))
    for number in range(0, 40, 3):
        fleet.models.drop(f"i{number}")
    points = [replica.point for replica in fleet.models.replicas("org/tiny")]
    assert points == sorted(points)
    assert len(points) == 26


# who may


def test_a_key_reaches_the_models_it_is_for(fleet: Fleet) -> None:
    fleet.models.put(running(1, params={"served_model_name": "tiny"}))
    fleet.models.put(running(2, "other/tiny", params={"served_model_name": "tiny"}))
    router = fleet.router()
    for principal, expected in ((LOCAL, {"i1", "i2"}), (ANN, {"i1"}), (BOB, {"i2"})):
        found = {replica.instance.instance_id for replica in router.replicas("tiny", principal)}
        assert found == expected
    mine = Principal(name="c", key_id="c", scope=Scope.INFERENCE, models=("tiny",))
    assert len(router.replicas("tiny", mine)) == 2


def test_what_there_is_for_others_is_not_told(fleet: Fleet) -> None:
    fleet.models.put(running(1, "other/secret"))
    router = fleet.router()
    for name in ("other/secret", "no/such"):
        refusal = router.refusal(name, ANN)
        assert isinstance(refusal, ModelNotFound)
        assert str(refusal) == f"model {name!r} does not exist; models there are: none"
    assert not router.names(ANN)
    assert not router.anywhere(None, ANN)
    assert router.names(LOCAL) == ["other/secret"]


def test_who_loads_says_how_far_it_is(fleet: Fleet) -> None:
    fleet.models.put(running(1, status=Status.FAILED, reason="out of memory"))
    fleet.models.put(running(2, status=Status.STARTING, stage="weights", progress=0.4))
    refusal = fleet.router().refusal("org/tiny", ANN)
    assert isinstance(refusal, InstanceNotReady)
    assert refusal.retry_after_s
    assert "weights 40%" in str(refusal)


# the choice


def test_requests_that_wait_in_an_engine_count(fleet: Fleet) -> None:
    for number in range(3):
        fleet.models.put(running(number))
    fleet.waiting = {"i0": 5, "i1": 5}
    router = fleet.router()
    assert {chosen(router) for _ in range(6)} == {"i2"}
    for _ in range(6):
        fleet.activity.begin("i2")
    assert {chosen(router) for _ in range(6)} == {"i0", "i1"}


def test_one_that_refused_is_left_out_until_it_moves(fleet: Fleet) -> None:
    for number in range(3):
        fleet.models.put(running(number))
    router = fleet.router()
    router.refused(running(1))
    assert Counter(chosen(router) for _ in range(30)) == {"i0": 15, "i2": 15}
    fleet.models.put(running(1, port=7777))
    assert {chosen(router) for _ in range(6)} == {"i0", "i1", "i2"}


def test_where_all_refused_all_are_tried(fleet: Fleet) -> None:
    fleet.models.put(running(0))
    fleet.models.put(running(1))
    router = fleet.router()
    for number in range(2):
        router.refused(running(number))
    assert {chosen(router) for _ in range(4)} == {"i0", "i1"}
    replicas = router.replicas("org/tiny", LOCAL)
    assert router.choose(replicas, None, ["i0"]) == running(1)
    assert router.choose(replicas, None, ["i0", "i1"]) is None


def test_those_of_lost_nodes_are_the_last_resort(fleet: Fleet) -> None:
    fleet.models.put(running(0, node="one"))
    fleet.models.put(running(1, node="two"))
    fleet.lost = {"two"}
    router = fleet.router()
    assert {chosen(router) for _ in range(4)} == {"i0"}
    fleet.lost = {"one", "two"}
    assert {chosen(router) for _ in range(4)} == {"i0", "i1"}


@pytest.mark.parametrize("routing", [Routing.PREFIX, Routing.SESSION])
def test_the_same_key_stays(fleet: Fleet, routing: Routing) -> None:
    for number in range(30):
        fleet.models.put(running(number))
    router = fleet.router(routing)
    keys = [point_of(bytes([number])) for number in range(50)]
    before = [chosen(router, point=key) for key in keys]
    assert before == [chosen(router, point=key) for key in keys]
    assert len(set(before)) > 15
    fleet.models.drop(before[0])
    after = [chosen(router, point=key) for key in keys]
    stayed = [old == new for old, new in zip(before, after, strict=True) if old != before[0]]
    assert sum(stayed) >= 0.9 * len(stayed)


def test_a_session_stays_where_it_is_however_busy_that_is(fleet: Fleet) -> None:
    for number in range(4):
        fleet.models.put(running(number))
    key = point_of(b"session")
    mine = chosen(fleet.router(Routing.SESSION), point=key)
    for _ in range(50):
        fleet.activity.begin(mine)
    assert chosen(fleet.router(Routing.SESSION), point=key) == mine
    assert chosen(fleet.router(Routing.PREFIX), point=key) != mine
