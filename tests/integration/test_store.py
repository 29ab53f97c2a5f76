"""The Store contract, kept by the store in memory and by the one on a real Redis."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import redis

from shared.domain.eta import STARTS_KEPT, PastStart
from shared.domain.instance import Desired, Exit, Instance, Status, may_become
from shared.domain.key import Scope
from shared.domain.node import Claim, Node, Orphan
from shared.errors import Conflict, RecordUnreadable, StoreUnavailable
from shared.store import KEEP_ENDED_S, Beat, Change, Query, Store
from shared.store.history import KEEP_STARTS_S, History
from shared.store.listing import Listing
from shared.store.memory import MemoryStore
from shared.store.nodes import Nodes
from shared.store.redis import RedisStore, connect
from tests.builders import a_gpu, a_key, a_node, an_instance
from tests.demo.waiting import until
from tests.redis_server import running_redis

START = 1_000_000.0
PATHS = {
    Status.PENDING: [],
    Status.STARTING: [Status.STARTING],
    Status.RUNNING: [Status.STARTING, Status.RUNNING],
    Status.UNHEALTHY: [Status.STARTING, Status.RUNNING, Status.UNHEALTHY],
    Status.BACKOFF: [Status.STARTING, Status.BACKOFF],
    Status.FAILED: [Status.FAILED],
    Status.STOPPING: [Status.STOPPING],
    Status.STOPPED: [Status.STOPPING, Status.STOPPED],
    Status.STOP_FAILED: [Status.STOPPING, Status.STOP_FAILED],
}


class Bench:
    """A store of one kind, with a node `one` that took part, and a way to let time pass."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.epoch = store.announce(a_node(name="one"), "worker")

    def age(self, instance_id: str, seconds: float) -> None:
        """Make an instance look as if it was last used `seconds` ago."""
        raise NotImplementedError

    def silence(self, node: str, seconds: float) -> None:
        """Make a node look as if it last beat `seconds` ago."""
        raise NotImplementedError

    def let(self, seconds: float) -> None:
        """Let time pass where it does not pass by itself."""

    def created(self, instance_id: str = "i1", **changes: Any) -> str:
        """Record an instance on node `one`; return its id."""
        assert self.store.create(an_instance(instance_id=instance_id, **changes), 100)
        return instance_id

    def a_change(self, instance_id: str = "i1", **changes: Any) -> Change:
        """Return a change that holds, but for `changes`."""
        record = self.got(instance_id)
        fields: dict[str, Any] = {
            "instance_id": instance_id,
            "node": record.node,
            "epoch": self.epoch,
            "generation": record.generation,
            "status": Status.STARTING,
        }
        return Change(**fields | changes)

    def moved(self, instance_id: str, *statuses: Status, **fields: object) -> Instance:
        """Move an instance along; return its record."""
        for status in statuses:
            change = self.a_change(instance_id, status=status, fields=fields)
            assert self.store.apply(change), f"{instance_id} did not become {status}"
        return self.got(instance_id)

    def got(self, instance_id: str) -> Instance:
        """Return a record that is there."""
        record = self.store.get(instance_id)
        assert record is not None
        return record

    def running(self, instance_id: str = "i1", **changes: Any) -> Instance:
        """Record an instance and have it run."""
        return self.moved(self.created(instance_id, **changes), *PATHS[Status.RUNNING])

    def lose(self, instance_id: str) -> None:
        """Have the store lose all it has of an instance."""
        raise NotImplementedError

    def damage(self, instance_id: str) -> None:
        """Have a record be one that cannot be read."""
        raise NotImplementedError

    def node(self, name: str = "one") -> Node:
        """Return a node that is there."""
        node = self.store.node(name)
        assert node is not None
        assert replace(node, heartbeat_age_s=None) in [
            replace(one, heartbeat_age_s=None) for one in self.store.nodes()
        ]
        return node


class MemoryBench(Bench):
    """Time is a number here, and passes for all."""

    def __init__(self) -> None:
        self.time = START
        super().__init__(MemoryStore(clock=lambda: self.time))

    def age(self, instance_id: str, seconds: float) -> None:
        """Let time pass."""
        self.time = (self.got(instance_id).last_active or 0.0) + seconds

    def silence(self, node: str, seconds: float) -> None:
        """Let time pass."""
        del node
        self.time += seconds

    def let(self, seconds: float) -> None:
        """Let time pass."""
        self.time += seconds

    def lose(self, instance_id: str) -> None:
        """Take it out of every place."""
        inside = vars(self.store)
        claims = inside["_claims"]["one"]
        for place in (inside["_instances"], inside["_events"], claims):
            place.pop(instance_id, None)

    def damage(self, instance_id: str) -> None:
        """Say so."""
        assert isinstance(self.store, MemoryStore)
        self.store.damage(instance_id)


class RedisBench(Bench):
    """Redis has its own clock, so what it wrote is moved back."""

    def __init__(self, client: redis.Redis) -> None:
        self.client: Any = client
        super().__init__(RedisStore(client))

    def age(self, instance_id: str, seconds: float) -> None:
        """Move the last use back."""
        used = self.store.now() - seconds
        timeout = self.got(instance_id).timeout
        self.client.hset(f"fleet:instance:{instance_id}", "last_active", used)
        self.client.zadd("fleet:expiry", {instance_id: used + timeout}, xx=True)

    def silence(self, node: str, seconds: float) -> None:
        """Move the last heartbeat back."""
        self.client.zadd("fleet:beats", {node: self.store.now() - seconds})

    def lose(self, instance_id: str) -> None:
        """Take it out of every place."""
        self.client.delete(f"fleet:instance:{instance_id}", f"fleet:events:{instance_id}")
        self.client.hdel("fleet:claims:one", instance_id)
        self.client.srem("fleet:placed:one", instance_id)
        for index in ("instances", "expiry", "ended"):
            self.client.zrem(f"fleet:{index}", instance_id)

    def damage(self, instance_id: str) -> None:
        """Give it a field as no version has written it."""
        self.client.hset(f"fleet:instance:{instance_id}", "exit", "[")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_redis(tmp_path_factory.mktemp("store-redis")) as url:
        yield url


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with closing(connect(redis_url)) as client:
        client.flushall()
        yield client


@pytest.fixture(params=["memory", "redis"])
def bench(request: pytest.FixtureRequest) -> Bench:
    if request.param == "memory":
        return MemoryBench()
    return RedisBench(request.getfixturevalue("client"))


@pytest.fixture
def store(bench: Bench) -> Store:
    return bench.store


@pytest.fixture
def redis_bench(client: redis.Redis) -> RedisBench:
    return RedisBench(client)


def test_a_store_that_is_there_answers(store: Store) -> None:
    store.ping()


def test_time_goes_on(store: Store) -> None:
    before = store.now()
    assert store.now() >= before


# create


def test_what_was_created_is_read_back_whole(bench: Bench) -> None:
    instance = an_instance(
        instance_id="i1",
        model_name="千问/m",
        params={"a": [1, 2.5, None], "b": {"c": True}, "d": "x"},
        env={"OMP_NUM_THREADS": "2"},
        timeout=7,
        gpus=("GPU-0", "GPU-1"),
    )
    bench.store.create(instance, 3)
    record = bench.got("i1")
    assert record == an_instance(
        **{
            name: getattr(instance, name) for name in ("instance_id", "model_name", "params", "env")
        },
        timeout=7,
        gpus=("GPU-0", "GPU-1"),
        created_at=record.created_at,
    )


def test_created_at_is_by_the_stores_clock(bench: Bench) -> None:
    before = bench.store.now()
    bench.created("i1", created_at=5.0)
    assert before <= bench.got("i1").created_at <= bench.store.now()


def test_a_new_instance_claims_its_place(bench: Bench) -> None:
    bench.created("i1", gpus=("GPU-0",))
    assert bench.node().claims == (Claim(instance_id="i1", shares={"GPU-0": 1000}),)


def test_a_full_node_takes_no_more(bench: Bench) -> None:
    made = [bench.store.create(an_instance(instance_id=f"i{n}"), 2) for n in range(3)]
    assert (made, bench.store.get("i2")) == ([True, True, False], None)


def test_a_gpu_is_held_by_one_instance(bench: Bench) -> None:
    bench.created("i1", gpus=("GPU-0", "GPU-1"))
    assert not bench.store.create(an_instance(instance_id="i2", gpus=("GPU-1", "GPU-2")), 100)
    assert bench.store.get("i2") is None


def test_a_refused_instance_leaves_no_trace(bench: Bench) -> None:
    bench.store.create(an_instance(instance_id="i1"), 0)
    found = (bench.store.instances(with_ended=True), bench.node().claims, bench.store.events("i1"))
    assert found == ([], (), [])


def test_gpus_of_the_same_name_on_another_node_are_others(bench: Bench) -> None:
    bench.created("i1", gpus=("GPU-0",))
    assert bench.store.create(an_instance(instance_id="i2", node="two", gpus=("GPU-0",)), 100)


def test_of_eight_threads_that_want_one_place_one_gets_it(store: Store) -> None:
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        barrier.wait()
        return store.create(an_instance(instance_id=f"i{number}"), 1)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert (sum(won), len(store.instances())) == (1, 1)


def test_of_eight_threads_that_want_one_gpu_one_gets_it(store: Store) -> None:
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        barrier.wait()
        return store.create(an_instance(instance_id=f"i{number}", gpus=("GPU-0",)), 100)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert sum(won) == 1


# reading


def test_nobody_has_no_record(store: Store) -> None:
    assert store.get("none") is None


def test_instances_are_listed_oldest_first(bench: Bench) -> None:
    for name in ("b", "a", "c"):
        bench.created(name)
        bench.silence("one", 0.01)
    assert [record.instance_id for record in bench.store.instances()] == ["b", "a", "c"]


def test_a_node_reads_again_what_has_changed(bench: Bench) -> None:
    store = bench.store
    seen = store.placed_since("one", None)
    assert seen.records == ()
    bench.created("i1")
    bench.created("i2")

    def again() -> list[Instance]:
        nonlocal seen
        seen = store.placed_since("one", seen)
        assert list(seen.records) == store.placed_on("one")
        return list(seen.records)

    assert [record.instance_id for record in again()] == ["i1", "i2"]
    bench.moved("i1", *PATHS[Status.RUNNING])
    assert [record.status for record in again()] == [Status.RUNNING, Status.PENDING]
    used_at = again()[0].last_active
    bench.let(1.0)
    store.touch(["i1"])
    assert again()[0].last_active != used_at
    store.stop("i2", reason="enough", by="user")
    assert again()[1].desired is Desired.STOPPED
    bench.moved("i2", Status.STOPPING, Status.STOPPED)
    assert [record.instance_id for record in again()] == ["i1"]


def test_an_emptied_store_has_nothing_on_a_node(redis_bench: RedisBench) -> None:
    redis_bench.created("i1")
    seen = redis_bench.store.placed_since("one", None)
    redis_bench.client.flushall()
    assert redis_bench.store.placed_since("one", seen).records == ()


def test_a_node_reads_little_where_nothing_has_changed(redis_bench: RedisBench) -> None:
    redis_bench.created("i1")
    redis_bench.moved("i1", *PATHS[Status.RUNNING])
    store, client = redis_bench.store, redis_bench.client
    seen = store.placed_since("one", None)
    before = client.info("commandstats")["cmdstat_hgetall"]["calls"]
    assert store.placed_since("one", seen) == seen
    assert client.info("commandstats")["cmdstat_hgetall"]["calls"] == before


def test_a_node_lists_what_is_placed_on_it(bench: Bench) -> None:
    bench.created("i1")
    bench.created("i2", node="two")
    assert [record.instance_id for record in bench.store.placed_on("one")] == ["i1"]


# a change is a comparison, then a write


def test_a_change_that_holds_is_written(bench: Bench) -> None:
    bench.created()
    fields = {
        "reason": "loads",
        "port": 9000,
        "pid": 7,
        "progress": 0.5,
        "exit": Exit(code=1, signal=None, at=2.0),
        "last_log": ("a", "千"),
        "run": 2,
        "first_cause": "killed",
        "first_reason": "engine ended by signal 9: 千",
        "retry_at": 1_000_010.5,
        "crashes": (999_000.5, 1_000_000.25),
        "failed_starts": 1,
        "backoff_step": 2,
    }
    assert bench.store.apply(bench.a_change(status=Status.STARTING, fields=fields))
    record = bench.got("i1")
    assert {name: getattr(record, name) for name in fields} == fields
    assert (record.status, record.observed_generation) == (Status.STARTING, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"generation": 0},
        {"generation": 2},
        {"epoch": 0},
        {"epoch": 2},
        {"node": "two"},
        {"status": Status.RUNNING},
        {"status": Status.STOPPED},
    ],
    ids=str,
)
def test_a_change_that_does_not_hold_changes_nothing(bench: Bench, changes: dict[str, Any]) -> None:
    bench.created()
    before = bench.got("i1")
    change = bench.a_change(fields={"reason": "no"}, **changes)
    assert (bench.store.apply(change), bench.got("i1")) == (False, before)


def test_a_change_of_nobody_makes_no_record(bench: Bench) -> None:
    bench.created()
    change = replace(bench.a_change(), instance_id="i2")
    assert (bench.store.apply(change), bench.store.get("i2")) == (False, None)


@pytest.mark.parametrize("before", Status)
def test_a_change_follows_the_arrows_of_the_diagram(bench: Bench, before: Status) -> None:
    taken = set()
    for after in Status:
        name = bench.created(f"i-{after}".replace("_", "-"))
        bench.moved(name, *PATHS[before])
        if bench.store.apply(bench.a_change(name, status=after)):
            taken.add(after)
    assert taken == may_become(before) | {before}


def test_the_same_status_may_be_written_again(bench: Bench) -> None:
    bench.moved(bench.created(), Status.STARTING)
    assert bench.moved("i1", Status.STARTING, stage="weights", progress=0.5).progress == 0.5


def test_none_removes_a_field(bench: Bench) -> None:
    bench.moved(bench.created(), Status.STARTING, progress=0.5, port=9000, pid=7)
    record = bench.moved("i1", Status.STARTING, progress=None, port=None, pid=None)
    assert (record.progress, record.port, record.pid) == (None, None, None)


def test_none_gives_every_optional_field_its_default(bench: Bench) -> None:
    """Whatever a worker may write, it may take back, in either store alike."""
    given = {
        "reason": "r", "stage": "s", "host": "h", "start_time": 1, "boot_id": "b",
        "engine_key": "k", "restarts": 1, "cause": "c", "advice": "a",
        "exit": Exit(code=1, signal=None, at=None), "last_log": ("x",),
        "run": 1, "first_cause": "c", "first_reason": "r", "retry_at": 1.5, "crashes": (1.0,),
        "failed_starts": 1, "backoff_step": 1,
    }  # fmt: skip
    bench.moved(bench.created(), Status.STARTING, **given)
    record = bench.moved("i1", Status.STARTING, **dict.fromkeys(given))
    fresh = an_instance()
    assert {name: getattr(record, name) for name in given} == {
        name: getattr(fresh, name) for name in given
    }


def test_a_change_made_upon_an_older_desire_does_not_hold(bench: Bench) -> None:
    bench.created()
    change = bench.a_change(status=Status.STARTING)
    bench.store.stop("i1", reason="enough", by="user")
    assert not bench.store.apply(change)


def test_a_second_announcement_fences_off_the_first(bench: Bench) -> None:
    bench.created()
    change = bench.a_change(status=Status.STARTING)
    newer = bench.store.announce(a_node(name="one"), "worker")
    assert (newer > bench.epoch, bench.store.apply(change)) == (True, False)


def test_of_eight_threads_that_make_one_change_one_does(bench: Bench) -> None:
    bench.created()
    starting = bench.moved("i1", Status.STARTING)
    changes = [bench.a_change(status=Status.RUNNING), bench.a_change(status=Status.BACKOFF)] * 4
    barrier = threading.Barrier(8)

    def apply(change: Change) -> bool:
        barrier.wait()
        return bench.store.apply(change)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(apply, changes))
    said = [event.status for event in bench.store.events("i1")]
    assert starting.status is Status.STARTING
    assert said in (
        ["pending", "starting", "running", "backoff"],
        ["pending", "starting", "backoff"],
    )


# what follows from a change


def test_starting_is_timed(bench: Bench) -> None:
    record = bench.moved(bench.created(), Status.STARTING)
    assert record.started_at is not None
    assert record.started_at <= bench.store.now()


def test_running_starts_the_idle_clock(bench: Bench) -> None:
    record = bench.running()
    assert record.ready_at == record.last_active
    assert record.ready_at is not None


def test_leaving_running_ends_the_idle_clock(bench: Bench) -> None:
    bench.running(timeout=60)
    bench.age("i1", 61.0)
    bench.moved("i1", Status.UNHEALTHY)
    assert bench.store.stop_idle() == []


def test_running_again_starts_the_idle_clock_again(bench: Bench) -> None:
    bench.running(timeout=60)
    bench.moved("i1", Status.UNHEALTHY, Status.RUNNING)
    bench.age("i1", 61.0)
    assert [record.instance_id for record in bench.store.stop_idle()] == ["i1"]


@pytest.mark.parametrize("status", [Status.FAILED, Status.STOPPED])
def test_an_end_releases_the_claim(bench: Bench, status: Status) -> None:
    bench.created(gpus=("GPU-0",))
    bench.moved("i1", *PATHS[status])
    assert bench.node().claims == ()


@pytest.mark.parametrize(
    "status", [status for status in Status if status not in (Status.FAILED, Status.STOPPED)]
)
def test_anything_but_an_end_keeps_the_claim(bench: Bench, status: Status) -> None:
    bench.created(gpus=("GPU-0",))
    bench.moved("i1", *PATHS[status])
    assert bench.node().claims == (Claim(instance_id="i1", shares={"GPU-0": 1000}),)


@pytest.mark.parametrize("status", [Status.FAILED, Status.STOPPED])
def test_an_end_forgets_the_engines_key(bench: Bench, status: Status) -> None:
    first, *rest = PATHS[status] if status is Status.STOPPED else [Status.STARTING, Status.FAILED]
    bench.moved(bench.created(), first, engine_key="hush")
    assert bench.moved("i1", *rest).engine_key == ""


@pytest.mark.parametrize("status", [Status.FAILED, Status.STOPPED])
def test_an_end_is_timed(bench: Bench, status: Status) -> None:
    bench.created()
    assert bench.moved("i1", *PATHS[status]).ended_at is not None


def test_the_key_is_kept_while_the_engine_runs(bench: Bench) -> None:
    bench.moved(bench.created(), Status.STARTING, engine_key="k")
    assert bench.moved("i1", Status.RUNNING).engine_key == "k"


def test_a_stopped_instance_is_listed_only_among_the_ended(bench: Bench) -> None:
    bench.moved(bench.created(), *PATHS[Status.STOPPED])
    live = [record.instance_id for record in bench.store.instances()]
    everything = [record.instance_id for record in bench.store.instances(with_ended=True)]
    assert (live, bench.store.placed_on("one"), everything) == ([], [], ["i1"])


def test_a_failed_instance_is_still_listed(bench: Bench) -> None:
    bench.moved(bench.created(), Status.FAILED)
    assert [record.instance_id for record in bench.store.instances()] == ["i1"]


def test_a_failed_instance_is_its_nodes_business_only_once_it_is_to_stop(bench: Bench) -> None:
    bench.moved(bench.created(), Status.FAILED)
    assert bench.store.placed_on("one") == []
    bench.store.stop("i1", reason="enough", by="user")
    assert [record.instance_id for record in bench.store.placed_on("one")] == ["i1"]
    bench.moved("i1", Status.STOPPING, Status.STOPPED)
    assert bench.store.placed_on("one") == []


def test_a_stopped_instance_can_still_be_read(bench: Bench) -> None:
    bench.moved(bench.created(), *PATHS[Status.STOPPED])
    assert bench.got("i1").ended


def test_a_released_place_can_be_claimed(bench: Bench) -> None:
    bench.moved(bench.created(gpus=("GPU-0",)), *PATHS[Status.STOPPED])
    assert bench.store.create(an_instance(instance_id="i2", gpus=("GPU-0",)), 1)


def test_everything_of_an_ended_instance_is_gone_within_a_day(redis_bench: RedisBench) -> None:
    redis_bench.created()
    redis_bench.store.append_log("i1", 0, ["a"])
    redis_bench.moved("i1", *PATHS[Status.STOPPED])
    lives = {key: redis_bench.client.ttl(key) for key in redis_bench.client.keys("fleet:*:i1*")}
    assert len(lives) == 3
    assert all(0 < seconds <= KEEP_ENDED_S for seconds in lives.values()), lives


def test_a_log_line_that_comes_after_the_end_keeps_nothing_longer(redis_bench: RedisBench) -> None:
    redis_bench.created()
    redis_bench.moved("i1", *PATHS[Status.STOPPED])
    redis_bench.store.append_log("i1", 0, ["late"])
    assert 0 < redis_bench.client.ttl("fleet:log:i1:0") <= KEEP_ENDED_S


def test_a_stop_of_a_failed_instance_lets_nothing_live_for_ever(redis_bench: RedisBench) -> None:
    redis_bench.moved(redis_bench.created(), Status.FAILED)
    redis_bench.store.stop("i1", reason="enough", by="user")
    redis_bench.moved("i1", Status.STOPPING, Status.STOPPED)
    lives = {key: redis_bench.client.ttl(key) for key in redis_bench.client.keys("fleet:*:i1*")}
    assert all(0 < seconds <= KEEP_ENDED_S for seconds in lives.values()), lives


def test_a_failed_instance_that_expires_leaves_no_trace(redis_bench: RedisBench) -> None:
    redis_bench.moved(redis_bench.created(), Status.FAILED)
    redis_bench.client.delete("fleet:instance:i1")  # as its expiry does
    assert (redis_bench.store.instances(), redis_bench.store.placed_on("one")) == ([], [])
    assert redis_bench.client.zcard("fleet:instances") == 0


# stop


def test_a_stop_is_a_desire(bench: Bench) -> None:
    bench.running()
    record = bench.store.stop("i1", reason="enough", by="user")
    assert record is not None
    assert (record.desired, record.stop_reason, record.generation, record.status) == (
        Desired.STOPPED,
        "enough",
        2,
        Status.RUNNING,
    )


def test_the_first_reason_to_stop_stays(bench: Bench) -> None:
    bench.running()
    first = bench.store.stop("i1", reason="enough", by="user")
    assert bench.store.stop("i1", reason="again", by="other") == first


def test_nobody_cannot_be_stopped(store: Store) -> None:
    assert store.stop("none", reason="r", by="user") is None


def test_a_stopped_instance_is_not_stopped_again(bench: Bench) -> None:
    stopped = bench.moved(bench.created(), *PATHS[Status.STOPPED])
    assert bench.store.stop("i1", reason="r", by="user") == stopped


def test_of_eight_threads_that_stop_an_instance_one_is_heard(bench: Bench) -> None:
    bench.running()
    barrier = threading.Barrier(8)

    def stop(number: int) -> None:
        barrier.wait()
        bench.store.stop("i1", reason=f"r{number}", by="user")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(stop, range(8)))
    asked = [event for event in bench.store.events("i1") if event.status == "desired=stopped"]
    assert (len(asked), bench.got("i1").generation) == (1, 2)


# idle


def test_what_is_due_is_asked_to_stop(bench: Bench) -> None:
    bench.running(timeout=60)
    bench.age("i1", 61.0)
    stopped = bench.store.stop_idle()
    assert [(record.instance_id, record.desired, record.stop_reason) for record in stopped] == [
        ("i1", Desired.STOPPED, "idle for 60 s, its timeout")
    ]


def test_what_is_not_due_is_left_alone(bench: Bench) -> None:
    bench.running(timeout=60)
    bench.age("i1", 50.0)
    assert bench.store.stop_idle() == []


def test_only_what_is_due_is_stopped(bench: Bench) -> None:
    bench.running("i1", timeout=60)
    bench.running("i2", timeout=6_000)
    bench.age("i1", 61.0)
    assert [record.instance_id for record in bench.store.stop_idle()] == ["i1"]


def test_a_touch_moves_the_idle_clock(bench: Bench) -> None:
    bench.running(timeout=60)
    bench.age("i1", 61.0)
    bench.store.touch(["i1"])
    assert bench.store.stop_idle() == []


def test_a_touch_is_timed(bench: Bench) -> None:
    before = bench.running().last_active or 0.0
    bench.silence("one", 0.01)
    bench.store.touch(["i1"])
    assert (bench.got("i1").last_active or 0.0) >= before


@pytest.mark.parametrize("names", [[], ["none"], ["none", "i1"]])
def test_a_touch_of_nobody_is_harmless(bench: Bench, names: list[str]) -> None:
    bench.created()
    bench.store.touch(names)
    assert (bench.got("i1").last_active, bench.store.get("none")) == (None, None)


def test_timeout_0_is_never_stopped(bench: Bench) -> None:
    bench.running(timeout=0)
    bench.age("i1", 1e8)
    bench.store.touch(["i1"])
    bench.age("i1", 1e8)
    assert bench.store.stop_idle() == []


def test_a_sweep_of_one_node_leaves_others_alone(bench: Bench) -> None:
    bench.running(timeout=60)
    bench.age("i1", 61.0)
    other = bench.store.stop_idle(node="two")
    own = [record.instance_id for record in bench.store.stop_idle(node="one")]
    assert (other, own) == ([], ["i1"])


def test_sweeping_twice_stops_once(bench: Bench) -> None:
    bench.running(timeout=60)
    bench.age("i1", 61.0)
    bench.store.stop_idle()
    assert (bench.store.stop_idle(), bench.got("i1").generation) == ([], 2)


def idle(bench: Bench, *names: str, used: int = 0) -> None:
    """Have instances run that are due by now, and others that are not."""
    for name in names:
        bench.running(name, timeout=60)
    for number in range(used):
        bench.running(f"used{number}", timeout=60_000)
    for name in names:
        bench.age(name, 61.0)


def names(records: Iterable[Instance]) -> list[str]:
    """Return the ids, sorted."""
    return sorted(record.instance_id for record in records)


def test_half_of_what_runs_is_stopped_without_ado(bench: Bench) -> None:
    idle(bench, "i1", "i2", used=2)
    assert names(bench.store.stop_idle(hold_s=60.0)) == ["i1", "i2"]


def test_more_than_half_of_what_runs_is_held_back_and_an_event_says_so_once(bench: Bench) -> None:
    idle(bench, "i1", "i2", used=1)
    assert [bench.store.stop_idle(hold_s=60.0) for _ in range(3)] == [[], [], []]
    last, before = bench.store.events("i1")[-1], bench.store.events("i1")[-2]
    assert (last.by, last.who, last.status, before.by) == ("idle", "beat", "running", "worker")
    assert last.reason == (
        "idle for 60 s, its timeout; held back for 60 s: 2 of 3 running instances are due at once"
    )


def test_without_a_hold_more_than_half_end_at_once_and_it_is_said(bench: Bench) -> None:
    idle(bench, "i1", "i2", used=1)
    stopped = bench.store.stop_idle(hold_s=0.0)
    said = "idle for 60 s, its timeout; 2 of 3 running instances are due at once"
    assert [one.stop_reason for one in stopped] == [said] * 2
    assert bench.store.events("i1")[-1].reason == said


def test_what_was_held_back_and_is_still_idle_is_stopped_and_it_is_said(bench: Bench) -> None:
    idle(bench, "i1", "i2")
    bench.store.stop_idle(hold_s=0.05)
    until(lambda: False, 0.06)
    bench.let(0.06)
    stopped = bench.store.stop_idle(node="one", hold_s=0.05)
    assert names(stopped) == ["i1", "i2"]
    assert "2 of 2 running instances are due at once" in stopped[0].stop_reason


def test_use_meanwhile_keeps_what_was_held_back(bench: Bench) -> None:
    idle(bench, "i1", "i2", "i3")
    bench.store.stop_idle(hold_s=60.0)
    bench.store.touch(["i1", "i2"])
    assert names(bench.store.stop_idle(hold_s=60.0)) == ["i3"]


def test_who_was_used_meanwhile_is_held_back_anew(redis_bench: RedisBench) -> None:
    idle(redis_bench, "i1", "i2", "i3")
    redis_bench.store.stop_idle(hold_s=60.0)
    redis_bench.store.touch(["i3"])
    redis_bench.store.stop_idle(hold_s=60.0)
    redis_bench.age("i3", 61.0)
    redis_bench.store.stop_idle(hold_s=60.0)
    held = [event for event in redis_bench.store.events("i3") if event.by == "idle"]
    assert len(held) == 2


def test_a_hold_of_long_ago_is_forgotten(redis_bench: RedisBench) -> None:
    idle(redis_bench, "i1", "i2")
    redis_bench.store.stop_idle(hold_s=60.0)
    redis_bench.store.touch(["i1", "i2"])
    redis_bench.store.stop_idle(hold_s=60.0)
    assert redis_bench.client.exists("fleet:idle-held") == 0


def test_a_sweep_of_one_node_looks_at_the_whole_fleet(bench: Bench) -> None:
    idle(bench, "i1", "i2", used=3)
    bench.store.create(an_instance(instance_id="other", node="two"), 9)
    assert names(bench.store.stop_idle(node="one", hold_s=60.0)) == ["i1", "i2"]


def test_a_touch_does_not_revive_what_is_asked_to_stop(bench: Bench) -> None:
    before = bench.running(timeout=60)
    bench.store.stop("i1", reason="enough", by="user")
    bench.store.touch(["i1"])
    after = bench.got("i1")
    assert (after.desired, after.generation) == (Desired.STOPPED, before.generation + 1)


@pytest.mark.parametrize("status", [Status.RUNNING, Status.UNHEALTHY, Status.STOPPING])
def test_a_touch_says_that_what_is_asked_to_stop_has_not_drained(
    bench: Bench, status: Status
) -> None:
    bench.running(timeout=60)
    if status is not Status.RUNNING:
        bench.moved("i1", status)
    bench.store.stop("i1", reason="enough", by="user")
    before = bench.got("i1").last_active
    bench.silence("one", 0.01)
    bench.store.touch(["i1"])
    assert (bench.got("i1").last_active or 0.0) > (before or 0.0)
    assert bench.store.stop_idle() == []


def test_a_request_that_has_ended_does_not_hold_up_a_stop(bench: Bench) -> None:
    bench.running(timeout=60)
    bench.store.stop("i1", reason="enough", by="user")
    before = bench.got("i1").last_active
    bench.silence("one", 0.01)
    bench.store.touch([], ended=["i1"])
    assert bench.got("i1").last_active == before


def test_a_request_that_has_ended_is_use(bench: Bench) -> None:
    before = bench.running(timeout=60).last_active
    bench.silence("one", 0.01)
    bench.store.touch([], ended=["i1"])
    assert (bench.got("i1").last_active or 0.0) > (before or 0.0)


def test_a_stop_that_failed_is_asked_for_once_more(bench: Bench) -> None:
    bench.running()
    bench.store.stop("i1", reason="enough", by="user")
    bench.moved("i1", Status.STOPPING)
    bench.store.stop("i1", reason="enough", by="user")
    assert bench.got("i1").generation == 2  # while it is being stopped, once is enough
    bench.moved("i1", Status.STOP_FAILED)
    bench.store.stop("i1", reason="nobody uses it", by="idle")
    assert bench.got("i1").generation == 2
    bench.store.stop("i1", reason="again", by="user")
    record = bench.got("i1")
    assert (record.generation, record.observed_generation) == (3, 2)


def test_a_sweep_checks_again_what_the_index_lists(redis_bench: RedisBench) -> None:
    redis_bench.created(timeout=60)
    redis_bench.client.zadd("fleet:expiry", {"i1": 1.0, "none": 1.0})
    assert redis_bench.store.stop_idle() == []
    assert redis_bench.client.zcard("fleet:expiry") == 0


# history


def test_events_are_in_order_and_say_who_and_why(bench: Bench) -> None:
    bench.created()
    bench.moved("i1", Status.STARTING, reason="spawned")
    bench.moved("i1", Status.RUNNING, reason="answers")
    bench.store.stop("i1", reason="enough", by="user")
    bench.moved("i1", Status.STOPPING, Status.STOPPED, reason="enough")
    events = bench.store.events("i1")
    assert [(event.by, event.status, event.reason) for event in events] == [
        ("user", "pending", "created, placed on one"),
        ("worker", "starting", "spawned"),
        ("worker", "running", "answers"),
        ("user", "desired=stopped", "enough"),
        ("worker", "stopping", "enough"),
        ("worker", "stopped", "enough"),
    ]
    assert [event.at for event in events] == sorted(event.at for event in events)


def test_a_record_may_outlive_its_history(redis_bench: RedisBench) -> None:
    redis_bench.moved(redis_bench.created(), *PATHS[Status.STOPPING])
    change = redis_bench.a_change(status=Status.STOPPED, keep_s=9 * KEEP_ENDED_S)
    assert redis_bench.store.apply(change)
    redis_bench.store.append_log("i1", 0, ["late"])
    lives = [redis_bench.client.ttl(f"fleet:{name}") for name in ("events:i1", "log:i1:0")]
    assert all(0 < seconds <= KEEP_ENDED_S for seconds in lives), lives
    assert redis_bench.client.ttl("fleet:instance:i1") > 8 * KEEP_ENDED_S


def test_an_event_says_who_wrote_in_the_name_of_a_node(bench: Bench) -> None:
    bench.created()
    bench.moved("i1", Status.STARTING)
    assert bench.store.apply(bench.a_change(status=Status.STOPPING, by="user", who="ann (key k1)"))
    told = [(event.by, event.who) for event in bench.store.events("i1")]
    assert told[1:] == [("worker", "one"), ("user", "ann (key k1)")]


def test_an_idle_stop_is_an_event_by_idle(bench: Bench) -> None:
    bench.running(timeout=60)
    bench.age("i1", 61.0)
    bench.store.stop_idle()
    last = bench.store.events("i1")[-1]
    assert (last.by, last.status) == ("idle", "desired=stopped")


def test_the_last_log_lines_of_a_failure_are_kept_unchangeable(bench: Bench) -> None:
    lines = ["a", "b\tc"]
    bench.moved(bench.created(), Status.FAILED, last_log=lines)
    lines.append("later")
    assert bench.got("i1").last_log == ("a", "b\tc")


def test_staying_in_a_status_is_no_event(bench: Bench) -> None:
    bench.moved(bench.created(), Status.STARTING)
    bench.moved("i1", Status.STARTING, progress=0.5)
    assert len(bench.store.events("i1")) == 2


def test_nobody_has_no_events_and_no_log(store: Store) -> None:
    assert (store.events("none"), store.log("none", 0, 10)) == ([], [])


@pytest.mark.parametrize(
    ("tail", "lines"), [(0, []), (1, ["c"]), (2, ["b", "c"]), (9, ["a", "b", "c"])]
)
def test_the_tail_of_a_log(bench: Bench, tail: int, lines: list[str]) -> None:
    bench.created()
    bench.store.append_log("i1", 0, ["a", "b"])
    bench.store.append_log("i1", 0, ["c"])
    assert [line.text for line in bench.store.log("i1", 0, tail)] == lines


def test_no_lines_add_nothing(bench: Bench) -> None:
    bench.created()
    bench.store.append_log("i1", 0, [])
    assert bench.store.log("i1", 0, 5) == []


def test_a_log_keeps_its_newest_lines(bench: Bench) -> None:
    bench.created()
    bench.store.append_log("i1", 0, [str(number) for number in range(6_000)])
    kept = bench.store.log("i1", 0, 10_000)
    assert (kept[-1].text, 5_000 <= len(kept) < 5_500) == ("5999", True)


# how long starts take


def test_what_starts_took_is_kept_by_kind_newest_first(store: Store) -> None:
    store.record_start("a", 30.0, {"weights": 2.5})
    store.record_start("b", 5.0, {})
    store.record_start("a", 20.0, {})
    newer, older = PastStart(seconds=20.0), PastStart(seconds=30.0, stages={"weights": 2.5})
    assert store.past_starts("a") == [newer, older]


def test_of_a_kind_never_started_nothing_is_known(store: Store) -> None:
    assert store.past_starts("a") == []


def test_only_the_newest_starts_of_a_kind_are_kept(store: Store) -> None:
    for seconds in range(STARTS_KEPT + 5):
        store.record_start("a", float(seconds), {})
    kept = [start.seconds for start in store.past_starts("a")]
    assert kept == [float(seconds) for seconds in range(STARTS_KEPT + 4, 4, -1)]


def test_what_starts_took_is_forgotten_once_nobody_starts_so(redis_bench: RedisBench) -> None:
    redis_bench.store.record_start("a", 1.0, {})
    assert 0 < redis_bench.client.ttl("fleet:starts:a") <= KEEP_STARTS_S


# sweeps


def test_only_a_sweep_of_the_whole_fleet_is_remembered(bench: Bench) -> None:
    bench.store.stop_idle(node="one")
    assert bench.store.swept_ago_s() is None
    bench.store.stop_idle()
    ago_s = bench.store.swept_ago_s()
    assert ago_s is not None
    assert 0.0 <= ago_s < 60.0


# a stop withdrawn


def idle_and_due(bench: Bench) -> Instance:
    """Return an instance that the idle sweep has just asked to stop."""
    bench.created(timeout=10)
    bench.moved("i1", *PATHS[Status.RUNNING])
    bench.age("i1", 11)
    (stopped,) = bench.store.stop_idle()
    return stopped


def test_use_takes_an_idle_stop_back_and_the_idle_clock_begins_anew(bench: Bench) -> None:
    stopped = idle_and_due(bench)
    bench.store.touch(["i1"])
    kept = bench.got("i1")
    assert (kept.desired, kept.generation) == (Desired.RUNNING, stopped.generation + 1)
    assert (kept.stop_reason, kept.stop_by) == ("", "")
    assert bench.store.stop_idle() == []
    last = bench.store.events("i1")[-1]
    assert (last.by, last.who, last.status) == ("user", "requests", "desired=running")


def test_use_does_not_take_back_what_a_user_asked_for(bench: Bench) -> None:
    bench.running()
    bench.store.stop("i1", reason="deleted", by="user")
    bench.store.touch(["i1"])
    assert bench.got("i1").desired is Desired.STOPPED


def test_use_does_not_take_back_a_stop_that_has_begun(bench: Bench) -> None:
    idle_and_due(bench)
    assert bench.store.apply(bench.a_change(status=Status.STOPPING, generation=2))
    bench.store.touch(["i1"])
    assert bench.got("i1").desired is Desired.STOPPED


def test_a_user_takes_a_stop_over_from_the_idle_sweep(bench: Bench) -> None:
    stopped = idle_and_due(bench)
    asked = bench.store.stop("i1", reason="deleted", by="user")
    assert asked
    assert (asked.stop_by, asked.stop_reason) == ("user", "deleted")
    assert asked.generation == stopped.generation + 1
    bench.store.touch(["i1"])
    assert bench.got("i1").desired is Desired.STOPPED


# nodes


def test_an_announced_node_is_read_back_whole(bench: Bench) -> None:
    node = a_node(name="two", address="10.0.0.2", max_instances=7, gpus=(a_gpu(0), a_gpu(1)))
    bench.store.announce(node, "worker")
    node = bench.node("two")
    assert (node.address, node.max_instances, node.gpus, node.claims, node.lost) == (
        "10.0.0.2",
        7,
        (a_gpu(0), a_gpu(1)),
        (),
        False,
    )


def test_a_node_that_nobody_announced_is_none(store: Store) -> None:
    assert store.node("two") is None


def test_nodes_are_listed_by_name(bench: Bench) -> None:
    bench.store.announce(a_node(name="alpha"), "worker")
    assert [node.name for node in bench.store.nodes()] == ["alpha", "one"]


def test_a_silent_node_is_lost(bench: Bench) -> None:
    bench.silence("one", 16.0)
    node = bench.node()
    assert node.lost
    assert node.heartbeat_age_s is not None
    assert 16.0 <= node.heartbeat_age_s < 18.0


def test_a_heartbeat_from_before_the_clock_was_set_back_keeps_no_node_alive(bench: Bench) -> None:
    bench.silence("one", -3600.0)
    assert bench.node().lost
    assert bench.store.announce(a_node(), "another machine") > bench.epoch


def test_a_heartbeat_brings_a_node_back(bench: Bench) -> None:
    bench.silence("one", 16.0)
    assert bench.store.heartbeat("one", bench.epoch) is Beat.OK
    assert not bench.node().lost


def test_a_retired_node_is_lost_at_once_and_keeps_its_claims(bench: Bench) -> None:
    bench.created()
    bench.store.retire("one", bench.epoch)
    assert (bench.node().lost, len(bench.node().claims)) == (True, 1)


def test_a_node_tells_how_often_it_was_announced(bench: Bench) -> None:
    assert bench.node().epoch == bench.epoch
    assert bench.store.announce(a_node(name="one"), "worker") == bench.node().epoch


def test_a_retired_node_comes_back_by_announcing_itself(bench: Bench) -> None:
    bench.store.retire("one", bench.epoch)
    bench.store.announce(a_node(name="one"), "worker")
    assert not bench.node().lost


def test_a_replaced_worker_cannot_beat_nor_retire(bench: Bench) -> None:
    bench.store.announce(a_node(name="one"), "worker")
    beat = bench.store.heartbeat("one", bench.epoch)
    bench.store.retire("one", bench.epoch)
    assert (beat, bench.node().lost) == (Beat.SUPERSEDED, False)


def test_a_name_that_a_living_worker_has_is_refused_to_another(bench: Bench) -> None:
    with pytest.raises(Conflict, match="NODE_NAME"):
        bench.store.announce(a_node(name="one"), "another")
    assert bench.store.heartbeat("one", bench.epoch) is Beat.OK


def test_a_name_whose_worker_has_left_is_free(bench: Bench) -> None:
    bench.store.retire("one", bench.epoch)
    assert bench.store.announce(a_node(name="one"), "another") > bench.epoch


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_node_that_nobody_announced_cannot_beat(store: Store, epoch: int) -> None:
    assert store.heartbeat("none", epoch) is Beat.UNKNOWN


def test_a_node_that_nobody_announced_cannot_write(bench: Bench) -> None:
    bench.created(node="none")
    assert not bench.store.apply(bench.a_change(epoch=0))


# records that come back from their nodes


def test_a_lost_record_comes_back_whole_with_its_claim(bench: Bench) -> None:
    kept = bench.running("i1", gpus=("GPU-0",), timeout=60)
    bench.lose("i1")
    assert (bench.store.get("i1"), bench.node().claims) == (None, ())
    assert bench.store.restore(kept, epoch=bench.epoch, over=None, reason="it was lost")
    back = bench.got("i1")
    assert back == replace(kept, last_active=back.last_active, revision=kept.revision + 1)
    assert bench.node().claims == (Claim(instance_id="i1", shares={"GPU-0": 1000}),)
    assert bench.store.placed_on("one") == bench.store.instances() == [back]
    (event,) = bench.store.events("i1")
    told = (event.by, event.who, event.status, event.reason)
    assert told == ("worker", "one", "running", "it was lost")


def test_the_idle_clock_of_what_comes_back_begins_anew(bench: Bench) -> None:
    kept = bench.running(timeout=60)
    bench.lose("i1")
    bench.store.restore(kept, epoch=bench.epoch, over=None, reason="")
    assert bench.store.stop_idle() == []
    bench.age("i1", 61)
    assert [record.instance_id for record in bench.store.stop_idle()] == ["i1"]


@pytest.mark.parametrize("status", [Status.STOPPED, Status.FAILED])
def test_what_ended_comes_back_without_a_claim(bench: Bench, status: Status) -> None:
    ended = bench.moved(bench.created("i1"), *PATHS[status])
    bench.lose("i1")
    bench.created("i1")  # as an older copy of the store has it
    over = bench.got("i1").revision
    assert bench.store.restore(ended, epoch=bench.epoch, over=over, reason="")
    assert bench.got("i1").status is status
    assert bench.node().claims == ()
    assert bench.store.placed_on("one") == []


@pytest.mark.parametrize(
    ("over", "epoch"), [(None, 0), (7, 0), (0, 1)], ids=["there is one", "another", "fenced"]
)
def test_a_record_that_has_moved_on_is_not_written_over(
    bench: Bench, over: int | None, epoch: int
) -> None:
    record = bench.got(bench.created("i1"))
    kept = replace(record, status=Status.RUNNING)
    assert not bench.store.restore(kept, epoch=bench.epoch + epoch, over=over, reason="")
    assert bench.got("i1") == record


def test_who_claims_the_same_gpus_is_said(bench: Bench) -> None:
    kept = bench.running("i1", gpus=("GPU-0",))
    bench.lose("i1")
    bench.created("i2", gpus=("GPU-0", "GPU-1"))
    bench.store.restore(kept, epoch=bench.epoch, over=None, reason="lost")
    (event,) = bench.store.events("i1")
    assert event.reason == "lost; its GPUs are claimed by i2 too"


def test_each_change_of_status_or_desire_is_a_revision(bench: Bench) -> None:
    record = bench.running()
    assert record.revision == len(PATHS[Status.RUNNING])
    assert bench.moved("i1", Status.RUNNING, stage="").revision == record.revision
    stopped = bench.store.stop("i1", reason="", by="user")
    assert stopped
    assert stopped.revision == record.revision + 1


def test_a_node_keeps_its_place_in_a_store_that_has_forgotten_its_epochs(bench: Bench) -> None:
    known = bench.epoch + 40
    assert bench.store.heartbeat("one", known) is Beat.BEHIND
    assert bench.store.announce(a_node(), "worker", last_epoch=known) == known + 1
    assert bench.store.heartbeat("one", known + 1) is Beat.OK
    assert bench.store.heartbeat("one", known) is Beat.SUPERSEDED


def test_nothing_is_placed_on_a_node_before_its_first_beat(bench: Bench) -> None:
    epoch = bench.store.announce(a_node(name="two"), "worker", beating=False)
    assert bench.node("two").lost
    bench.store.heartbeat("two", epoch)
    assert not bench.node("two").lost


def test_a_node_tells_of_engines_that_nobody_knows(bench: Bench) -> None:
    orphan = Orphan(instance_id="i9", pids=(7, 8), since=START, reaped_in_s=300.0)
    bench.store.report_orphans("one", bench.epoch, [orphan])
    assert bench.node().orphans == (orphan,)
    bench.store.report_orphans("one", bench.epoch - 1, [])
    assert bench.node().orphans == (orphan,)
    bench.store.report_orphans("one", bench.epoch, [])
    assert bench.node().orphans == ()


# notification


def listening(store: Store) -> Generator[frozenset[str]]:
    """Return the changes from now on."""
    changes = store.changes(0.2)
    assert next(changes) == frozenset()
    return changes


def test_every_kind_of_change_is_heard(bench: Bench) -> None:
    with closing(listening(bench.store)) as changes:
        for change in (
            lambda: bench.created("i1"),
            lambda: bench.moved("i1", Status.STARTING),
            lambda: bench.moved("i1", Status.RUNNING),
            lambda: bench.moved("i1", Status.RUNNING, reason="as before"),
            lambda: bench.store.stop("i1", reason="r", by="user"),
        ):
            change()
            assert next(changes) == {"i1"}


def test_how_far_a_start_is_wakes_nobody_and_is_found(bench: Bench) -> None:
    bench.moved(bench.created("i1"), Status.STARTING)
    cursor = bench.store.instances_since("").cursor
    with closing(listening(bench.store)) as changes:
        record = bench.moved("i1", Status.STARTING, progress=0.5)
        assert next(changes) == frozenset()
    assert bench.store.instances_since(cursor).found == {"i1": record}


def test_what_changes_faster_than_it_is_taken_is_heard_together(bench: Bench) -> None:
    with closing(listening(bench.store)) as changes:
        bench.created("i1")
        bench.created("i2")
        bench.moved("i1", Status.STARTING)
        heard = [next(changes) for _ in range(4)]
    assert frozenset().union(*heard) == {"i1", "i2"}
    assert heard[-1] == frozenset()


def test_silence_is_heard_too(store: Store) -> None:
    with closing(listening(store)) as changes:
        assert next(changes) == frozenset()


def test_two_listeners_hear_the_same(bench: Bench) -> None:
    with (
        closing(listening(bench.store)) as first,
        closing(listening(bench.store)) as second,
    ):
        bench.created("i1")
        assert next(first) == next(second) == {"i1"}


# API keys


def test_a_new_key_is_read_back_whole(bench: Bench) -> None:
    key, _ = a_key(
        name="ann@example.org",
        scope=Scope.INFERENCE,
        models=("org/*", 'a"b'),
        expires_at=2_000_000_000.125,
    )
    before = bench.store.now()
    assert bench.store.add_key(key)
    [read] = bench.store.api_keys()
    assert read == replace(key, created_at=read.created_at)
    assert before <= read.created_at <= bench.store.now()


def test_a_fleet_has_no_keys_at_first(store: Store) -> None:
    assert store.api_keys() == []


def test_an_id_is_given_once(store: Store) -> None:
    key, _ = a_key(name="ann")
    assert store.add_key(key)
    assert not store.add_key(replace(key, name="bob", digest="00"))
    assert [(kept.name, kept.digest) for kept in store.api_keys()] == [("ann", key.digest)]


def test_keys_are_listed_oldest_first(store: Store) -> None:
    made = [a_key()[0] for _ in range(5)]
    for key in made:
        store.add_key(key)
    listed = store.api_keys()
    assert sorted(listed, key=lambda key: (key.created_at, key.key_id)) == listed
    assert {key.key_id for key in listed} == {key.key_id for key in made}


def test_a_revoked_key_is_kept_with_the_time_of_the_first_revocation(bench: Bench) -> None:
    key, _ = a_key()
    bench.store.add_key(key)
    first = bench.store.revoke_key(key.key_id)
    assert first
    assert first.revoked_at == pytest.approx(bench.store.now(), abs=5)
    assert bench.store.revoke_key(key.key_id) == first
    assert bench.store.api_keys() == [first]


def test_a_key_that_is_not_there_cannot_be_revoked_nor_rotated(store: Store) -> None:
    assert store.revoke_key("aaaaaaaa") is None
    assert store.rotate_key("aaaaaaaa", a_key()[0], 60.0) is None
    assert store.api_keys() == []


@pytest.mark.parametrize(("lives", "expected"), [(None, 60), (30.0, 30), (90.0, 60)])
def test_a_rotated_key_ends_with_the_overlap_or_sooner(
    bench: Bench, lives: float | None, expected: float
) -> None:
    now = bench.store.now()
    old, _ = a_key(expires_at=None if lives is None else now + lives)
    bench.store.add_key(old)
    successor, _ = a_key(name="new", expires_at=old.expires_at)
    rotated = bench.store.rotate_key(old.key_id, successor, 60.0)
    assert rotated
    assert rotated.expires_at == pytest.approx(now + expected, abs=5)
    assert rotated.successor == successor.key_id
    made = {key.key_id: key for key in bench.store.api_keys()}
    assert made[old.key_id] == rotated
    assert (made[successor.key_id].name, made[successor.key_id].successor) == ("new", "")
    assert made[successor.key_id].created_at == pytest.approx(now, abs=5)


@pytest.mark.parametrize("state", ["revoked", "expired", "rotated already", "cannot be rotated"])
def test_a_key_that_is_not_active_or_has_a_successor_is_not_rotated(
    bench: Bench, state: str
) -> None:
    old, _ = a_key(expires_at=1.0 if state == "expired" else None)
    successor, _ = a_key()
    bench.store.add_key(old)
    if state == "revoked":
        bench.store.revoke_key(old.key_id)
    if state == "rotated already":
        bench.store.rotate_key(old.key_id, a_key()[0], 60.0)
    if state == "cannot be rotated":  # the new id is taken
        bench.store.add_key(successor)
    before = bench.store.api_keys()
    with pytest.raises(Conflict, match=f"key {old.key_id} .*{state}"):
        bench.store.rotate_key(old.key_id, successor, 60.0)
    assert bench.store.api_keys() == before


def test_of_eight_threads_that_rotate_a_key_one_does(bench: Bench) -> None:
    old, _ = a_key()
    bench.store.add_key(old)

    def rotate(_: int) -> bool:
        try:
            return bench.store.rotate_key(old.key_id, a_key()[0], 60.0) is not None
        except Conflict:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(rotate, range(8))) == 1
    assert len(bench.store.api_keys()) == 2


def test_every_change_of_a_key_is_heard_and_none_of_an_instance(bench: Bench) -> None:
    old, new = a_key()[0], a_key()[0]
    with closing(bench.store.key_changes(0.2)) as changes:
        assert next(changes) == frozenset()
        bench.created("i1")
        bench.store.add_key(old)
        assert next(changes) == {old.key_id}
        bench.store.rotate_key(old.key_id, new, 60.0)
        heard = {*next(changes), *next(changes)}  # together, unless the first was taken at once
        assert heard == {old.key_id, new.key_id}
        bench.store.revoke_key(new.key_id)
        assert next(changes) == {new.key_id}
        bench.store.revoke_key(new.key_id)  # changes nothing
        assert next(changes) == frozenset()


def test_a_change_of_a_key_is_none_of_an_instance(bench: Bench) -> None:
    with closing(listening(bench.store)) as changes:
        bench.store.add_key(a_key()[0])
        assert next(changes) == frozenset()


def test_what_is_kept_of_a_key_does_not_hold_it(redis_bench: RedisBench) -> None:
    key, token = a_key()
    redis_bench.store.add_key(key)
    kept = redis_bench.client.hgetall(f"fleet:api-key:{key.key_id}")
    assert token[13:].decode() not in repr(kept)
    assert redis_bench.client.ttl(f"fleet:api-key:{key.key_id}") == -1


def test_fields_of_a_newer_versions_key_are_skipped(redis_bench: RedisBench) -> None:
    key, _ = a_key()
    redis_bench.store.add_key(key)
    redis_bench.client.hset(f"fleet:api-key:{key.key_id}", "from_the_future", "1")
    assert [read.key_id for read in redis_bench.store.api_keys()] == [key.key_id]


# a store that is away


CALLS: dict[str, Callable[[Store], object]] = {
    "ping": lambda store: store.ping(),
    "now": lambda store: store.now(),
    "announce": lambda store: store.announce(a_node(), "worker"),
    "heartbeat": lambda store: store.heartbeat("one", 1),
    "retire": lambda store: store.retire("one", 1),
    "nodes": lambda store: store.nodes(),
    "node": lambda store: store.node("one"),
    "nodes_since": lambda store: store.nodes_since(""),
    "node_changes": lambda store: next(iter(store.node_changes(1.0))),
    "cordon": lambda store: store.cordon("one"),
    "uncordon": lambda store: store.uncordon("one"),
    "forget_node": lambda store: store.forget_node("one"),
    "create": lambda store: store.create(an_instance(), 100),
    "get": lambda store: store.get("i1"),
    "unreadable": lambda store: store.unreadable(),
    "instances": lambda store: store.instances(with_ended=True),
    "placed_on": lambda store: store.placed_on("one"),
    "placed_since": lambda store: store.placed_since("one", None),
    "stop": lambda store: store.stop("i1", reason="enough", by="user"),
    "apply": lambda store: store.apply(
        Change(instance_id="i1", node="one", epoch=1, generation=1, status=Status.STARTING)
    ),
    "restore": lambda store: store.restore(an_instance(), epoch=1, over=None, reason="lost"),
    "report_orphans": lambda store: store.report_orphans("one", 1, []),
    "touch": lambda store: store.touch(["i1"]),
    "stop_idle": lambda store: store.stop_idle(),
    "retime": lambda store: store.retime("i1", 60, who="catalogue"),
    "swept_ago_s": lambda store: store.swept_ago_s(),
    "events": lambda store: store.events("i1"),
    "append_log": lambda store: store.append_log("i1", 0, ["a"]),
    "log": lambda store: store.log("i1", 0, 1),
    "log_after": lambda store: store.log_after("i1", 0, "", wait_s=0.1),
    "events_after": lambda store: store.events_after("i1", "", wait_s=0.1),
    "note": lambda store: store.note("i1", by="worker", who="one", reason="r"),
    "created_once": lambda store: store.created_once("k"),
    "record_start": lambda store: store.record_start("a", 1.0, {}),
    "past_starts": lambda store: store.past_starts("a"),
    "several": lambda store: store.several(["i1"]),
    "instances_since": lambda store: store.instances_since(""),
    "page": lambda store: store.page(Query()),
    "lease": lambda store: store.lease("scaling", "a", 1.0),
    "end_lease": lambda store: store.end_lease("scaling", "a"),
    "changes": lambda store: next(iter(store.changes(1.0))),
    "api_keys": lambda store: store.api_keys(),
    "add_key": lambda store: store.add_key(a_key()[0]),
    "revoke_key": lambda store: store.revoke_key("aaaaaaaa"),
    "rotate_key": lambda store: store.rotate_key("aaaaaaaa", a_key()[0], 60.0),
    "key_changes": lambda store: next(iter(store.key_changes(1.0))),
}
"""A call of each method."""


def refused_after(url: str, call: Callable[[Store], object]) -> float:
    """Return how many seconds a new client needs to learn that no store answers."""
    with closing(connect(url)) as client:
        begun = monotonic()
        with pytest.raises(StoreUnavailable, match="Redis does not answer"):
            call(RedisStore(client))
        return monotonic() - begun


def test_every_method_is_called_here() -> None:
    assert set(CALLS) == {
        name
        for name in {**vars(History), **vars(Listing), **vars(Nodes), **vars(Store)}
        if not name.startswith("_")
    }


@pytest.mark.parametrize("name", CALLS)
def test_a_server_that_is_away_is_said_to_be(name: str, tmp_path: Path) -> None:
    assert refused_after(f"unix://{tmp_path}/none.sock", CALLS[name]) < 1.0


def test_a_server_that_refuses_writes_is_said_to_be_away(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url, closing(connect(url)) as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailable):
            RedisStore(client).announce(a_node(), "worker")


def test_what_was_acknowledged_survives_the_kill_of_the_server(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url, closing(connect(url)) as client:
        record = RedisBench(client).running()
    with running_redis(tmp_path) as url, closing(connect(url)) as client:
        assert RedisStore(client).get(record.instance_id) == record


def test_fields_of_a_newer_version_are_skipped(redis_bench: RedisBench) -> None:
    record = redis_bench.running()
    redis_bench.client.hset("fleet:instance:i1", "from_the_future", "1")
    assert redis_bench.got("i1") == record


# records that cannot be read


def test_a_record_that_cannot_be_read_keeps_nobody_from_the_others(bench: Bench) -> None:
    for name in ("i1", "i2", "i3"):
        bench.running(name, gpus=(name,))
    bench.damage("i2")
    for found in (bench.store.placed_on("one"), bench.store.instances(with_ended=True)):
        assert [record.instance_id for record in found] == ["i1", "i3"]
    bench.age("i1", 601)
    bench.age("i3", 601)
    assert {record.instance_id for record in bench.store.stop_idle()} >= {"i1", "i3"}


def test_a_record_that_cannot_be_read_is_told_from_none_and_keeps_its_claim(bench: Bench) -> None:
    before = bench.running("i1", gpus=("GPU-0",))
    bench.damage("i1")
    with pytest.raises(RecordUnreadable, match="instance i1: its record cannot be read"):
        bench.store.get("i1")
    events = bench.store.events("i1")
    with pytest.raises(RecordUnreadable):
        bench.store.stop("i1", reason="enough", by="user")
    assert bench.store.events("i1") == events
    assert [found.instance_id for found in bench.store.unreadable()] == ["i1"]
    assert bench.node().claims == (Claim(instance_id="i1", shares={"GPU-0": 1000}),)
    assert not bench.store.restore(before, epoch=bench.epoch, over=None, reason="lost")
    bench.lose("i1")
    assert (bench.store.get("i1"), bench.store.unreadable()) == (None, [])


@pytest.mark.parametrize(
    ("field", "stored", "why"),
    [
        ("status", "sleeping", "status: 'sleeping' is not a valid Status"),
        ("status", b"\xff", "status: "),
        ("desired", "", "desired: "),
        ("timeout", '"long"', "timeout: str is not what stands there"),
        ("generation", "many", "generation: "),
        ("generation", "99999999999999999999", "generation: 99999999999999999999 is no number"),
        ("revision", "99999999999999999999", "revision: "),
        ("port", "true", "port: bool is not"),
        ("progress", "NaN", "progress: NaN is no number"),
        ("created_at", "1e999", "created_at: 1e999 is no number"),
        ("params", "[" * 100_000, "params: "),
        ("params", "[1]", "params: list is not"),
        ("exit", '{"code": 1}', "exit: "),
        ("node", None, "no node"),
        ("timeout", None, "no timeout"),
    ],
)
def test_whatever_is_wrong_with_a_record_is_named_once_and_stops_no_sweep(
    redis_bench: RedisBench,
    field: str,
    stored: str | bytes | None,
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    redis_bench.running("i1")
    redis_bench.running("i2")
    for name in ("i1", "i2"):
        redis_bench.age(name, 601)
    key = "fleet:instance:i1"
    if stored is None:
        redis_bench.client.hdel(key, field)
    else:
        redis_bench.client.hset(key, field, stored)
    for _ in range(3):
        assert [i.instance_id for i in redis_bench.store.placed_on("one")] == ["i2"]
    (said,) = (line.getMessage() for line in caplog.records)
    assert why in said
    assert f"delete {key} from Redis" in said
    redis_bench.store.touch(["i1", "i2"])
    assert redis_bench.store.stop_idle() == []
    redis_bench.age("i2", 601)
    assert [i.instance_id for i in redis_bench.store.stop_idle()] == ["i2"]


def test_a_record_that_can_be_read_again_is(redis_bench: RedisBench) -> None:
    record = redis_bench.running("i1")
    redis_bench.client.hset("fleet:instance:i1", "status", "sleeping")
    assert redis_bench.store.placed_on("one") == []
    redis_bench.client.hset("fleet:instance:i1", "status", "running")
    assert redis_bench.store.placed_on("one") == [record]
    assert redis_bench.store.unreadable() == []


def test_fields_of_a_newer_versions_parts_are_skipped(redis_bench: RedisBench) -> None:
    redis_bench.store.announce(a_node(name="two", gpus=(a_gpu(0),)), "worker")
    gpu = {"index": 0, "uuid": "GPU-0", "name": "H100", "total_mib": 81_559, "of_the_future": 1}
    redis_bench.client.hset("fleet:node:two", "gpus", json.dumps([gpu]))
    assert redis_bench.node("two").gpus == (a_gpu(0),)
    redis_bench.running("i1")
    ended = json.dumps({"code": 1, "signal": None, "at": 5.0, "of_the_future": 1})
    redis_bench.client.hset("fleet:instance:i1", "exit", ended)
    assert redis_bench.got("i1").exit == Exit(code=1, signal=None, at=5.0)


def test_a_node_that_cannot_be_read_does_not_hide_the_others(
    redis_bench: RedisBench, caplog: pytest.LogCaptureFixture
) -> None:
    redis_bench.store.announce(a_node(name="two"), "worker")
    redis_bench.client.hset("fleet:node:two", "gpus", "[")
    for _ in range(2):
        assert [node.name for node in redis_bench.store.nodes()] == ["one"]
        assert redis_bench.store.node("two") is None
    (said,) = (line.getMessage() for line in caplog.records)
    assert said.startswith("node two: its record cannot be read")


def test_a_lost_connection_ends_listening(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url:
        client = connect(url)
        changes = listening(RedisStore(client))
    with closing(client), pytest.raises(StoreUnavailable):
        list(changes)


def test_a_store_works_again_once_its_server_does(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url:
        client = connect(url)
        RedisStore(client).ping()
        client.client_kill_filter(skipme=False, _type="normal")
        assert until(lambda: _pings(client), 3.0)
        client.close()


def _pings(client: redis.Redis) -> bool:
    try:
        RedisStore(client).ping()
    except StoreUnavailable:
        return False
    return True


def test_a_frozen_server_costs_less_than_three_seconds(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url, closing(connect(url)) as client:
        os.kill(int(client.info("server")["process_id"]), signal.SIGSTOP)
        with ThreadPoolExecutor(len(CALLS)) as pool:
            asked = {name: pool.submit(refused_after, url, call) for name, call in CALLS.items()}
        took = {name: answer.result() for name, answer in asked.items()}
    assert max(took.values()) < 3.0, took


def test_a_server_that_freezes_under_us_costs_less_than_three_seconds(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url, closing(connect(url)) as client:
        store = RedisStore(client)
        os.kill(int(client.info("server")["process_id"]), signal.SIGSTOP)
        begun = monotonic()
        with pytest.raises(StoreUnavailable):
            store.instances()
    assert monotonic() - begun < 3.0
