"""Three nodes and two web tiers, each a host of its own: placement, failover, loss, partition.

Hosts are network namespaces on this machine, so it takes root; see `tests.netns`.
"""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pytest
import requests

from shared.domain.node import LOST_AFTER_S
from tests.demo.waiting import until
from tests.netns.fleet import FleetOverLan, WebTier, fleet_over_lan
from tests.netns.lan import NETWORK, why_not

WHY_NOT = why_not()
pytestmark = [
    pytest.mark.skipif(bool(WHY_NOT), reason=f"no network namespaces: {WHY_NOT}"),
    pytest.mark.allow_hosts(["127.0.0.1", "::1", NETWORK]),
    pytest.mark.timeout(300),
]

NODES = ("one", "two", "three")  # three instances each
POOLED_S = 4.5  # after which a kept connection is used no more: what went over it is sent once
SILENT_S = 3.0  # a node really is, where it is not about how long it takes to be lost
LOST_S = 60.0  # until all have seen it
BACK_S = 60.0


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetOverLan]:
    with fleet_over_lan(tmp_path_factory.mktemp("lan"), nodes=NODES, webs=2) as fleet:
        yield fleet


@pytest.fixture
def fleet(lan: FleetOverLan) -> Iterator[FleetOverLan]:
    yield lan
    lan.clear()


def status(fleet: FleetOverLan, node: str) -> str:
    """Return how a node is."""
    return str(fleet.node(node)["status"])


def becomes_lost(fleet: FleetOverLan, node: str) -> None:
    """Wait until it is seen that a node is silent; most of that time passes at once."""
    fleet.age(node, LOST_AFTER_S - SILENT_S)
    assert until(lambda: status(fleet, node) == "lost", LOST_S), fleet.node(node)


def lose(fleet: FleetOverLan, node: str) -> None:
    """Pull a node's cable, and wait until that is seen."""
    fleet.lan.unplug(fleet.nodes[node])
    becomes_lost(fleet, node)


def comes_back(fleet: FleetOverLan, node: str) -> None:
    """Put the cable back, and wait until that is seen."""
    fleet.lan.heal()
    assert until(lambda: status(fleet, node) == "alive", BACK_S), fleet.node(node)


def answered(web: WebTier, instance_id: str) -> int:
    """Return the status of a request to an instance; 0 if there was no answer."""
    try:
        return web.proxied(instance_id)
    except requests.RequestException:
        return 0


@contextmanager
def callers(web: WebTier, instance_id: str) -> Iterator[list[int]]:
    """Send requests to an instance until the block ends; give what came back."""
    seen: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.1):
            seen.append(answered(web, instance_id))

    caller = threading.Thread(target=ask)
    caller.start()
    try:
        yield seen
    finally:
        over.set()
        caller.join()


# placement


def test_instances_run_on_every_host_and_both_web_tiers_reach_all(fleet: FleetOverLan) -> None:
    made = [fleet.web.create() for _ in range(6)]
    hosts = {name: host.address for name, host in fleet.nodes.items()}
    assert {record["node"] for record in made} == set(NODES)
    assert all(record["host"] == hosts[record["node"]] for record in made)
    for web in fleet.webs:
        reached = [web.proxied(record["instance_id"]) for record in made]
        assert reached == [200] * 6


def test_an_instance_goes_to_the_node_that_was_asked_for(fleet: FleetOverLan) -> None:
    assert [fleet.web.create(node=name)["node"] for name in NODES] == list(NODES)


def test_two_web_tiers_at_once_never_fill_a_node_beyond_what_it_takes(
    fleet: FleetOverLan,
) -> None:
    def create(number: int) -> int:
        web = fleet.webs[number % 2]
        url, headers = f"{web.base}/instances", {"Authorization": f"Bearer {web.key}"}
        body = {"model_name": "org/tiny"}
        return requests.post(url, json=body, headers=headers, timeout=60).status_code

    with ThreadPoolExecutor(8) as pool:
        answers = Counter(pool.map(create, range(16)))
    assert answers == {202: 9, 503: 7}
    placed = Counter(one["node"] for one in fleet.web.call("GET", "/instances").json().values())
    assert placed == dict.fromkeys(NODES, 3)


# a node that is lost


def test_a_lost_node_is_shown_gets_nothing_and_comes_back_as_if_nothing_was(
    fleet: FleetOverLan,
) -> None:
    before = fleet.web.create(node="two")
    name = before["instance_id"]
    fleet.lan.unplug(fleet.nodes["two"])
    silent = fleet.node("two")["heartbeat_age_s"] - monotonic()
    assert until(lambda: status(fleet, "two") == "lost", LOST_S), fleet.node("two")
    assert silent + monotonic() == pytest.approx(LOST_AFTER_S, abs=1.0)
    assert fleet.web.record(name)["node_status"].startswith("lost: silent for")
    assert fleet.web.call("GET", "/nodes").json()["two"]["status"] == "lost"
    assert {fleet.web.create()["node"] for _ in range(6)} == {"one", "three"}
    refused = fleet.web.call("POST", "/instances", json={"model_name": "org/tiny"})
    assert refused.status_code == 503
    assert "two is lost" in refused.json()["error"]["message"]
    for web in fleet.webs:  # whose tables hear of it within a second
        assert until(lambda: answered(web, name) == 503, BACK_S)  # noqa: B023 - used at once
    comes_back(fleet, "two")
    after = fleet.web.record(name)
    assert after["node_status"] == "alive"
    same = ("status", "pid", "port", "run", "restarts", "generation")
    assert [after[field] for field in same] == [before[field] for field in same]
    assert until(lambda: [answered(web, name) for web in fleet.webs] == [200, 200], BACK_S)
    assert fleet.web.create()["node"] == "two"


def test_what_was_deleted_while_its_node_was_lost_ends_when_the_node_is_back(
    fleet: FleetOverLan,
) -> None:
    name = fleet.web.create(node="three")["instance_id"]
    lose(fleet, "three")
    asked = fleet.web.call("DELETE", f"/instances/{name}")
    assert (asked.status_code, asked.json()["status"]) == (202, "stopping")
    comes_back(fleet, "three")
    assert until(lambda: fleet.web.record(name)["status"] == "stopped", BACK_S)


def test_a_worker_that_is_killed_loses_its_node_and_no_request(fleet: FleetOverLan) -> None:
    before = fleet.web.create(node="one")
    with callers(fleet.web, before["instance_id"]) as seen:
        fleet.workers["one"].end(signal.SIGKILL)
        becomes_lost(fleet, "one")
        fleet.start_node("one", VLLM_MAX_INSTANCES="3")
        assert until(lambda: status(fleet, "one") == "alive", BACK_S)
    assert set(seen) == {200}
    assert fleet.web.record(before["instance_id"])["pid"] == before["pid"]


# parts that do not see each other


def test_a_node_that_is_cut_off_from_redis_only_goes_on_serving(fleet: FleetOverLan) -> None:
    before = fleet.web.create(node="one")
    name = before["instance_id"]
    with callers(fleet.web, name) as seen:
        fleet.lan.part(fleet.nodes["one"], fleet.redis_host)
        becomes_lost(fleet, "one")
        assert fleet.web.create()["node"] != "one"
        comes_back(fleet, "one")
    assert set(seen) == {200}
    after = fleet.web.record(name)
    assert (after["pid"], after["run"]) == (before["pid"], before["run"])


def test_a_web_tier_that_is_cut_off_from_redis_only_goes_on_routing(fleet: FleetOverLan) -> None:
    away = fleet.webs[1]
    name = fleet.web.create(node="two")["instance_id"]
    assert until(lambda: answered(away, name) == 200, BACK_S)
    with callers(away, name) as seen:
        fleet.lan.part(away.host, fleet.redis_host)
        assert until(lambda: away.call("GET", "/readyz").status_code == 503, LOST_S)
        made = fleet.web.create(node="three")["instance_id"]
        assert answered(away, made) == 503  # it has not heard of it
        fleet.lan.heal()
        assert until(lambda: answered(away, made) == 200, BACK_S)
    assert set(seen) == {200}


def test_a_web_tier_that_cannot_reach_a_node_says_so_and_the_other_serves(
    fleet: FleetOverLan,
) -> None:
    name = fleet.web.create(node="two")["instance_id"]
    near, far = fleet.webs
    assert until(lambda: answered(far, name) == 200, BACK_S)
    fleet.lan.part(far.host, fleet.nodes["two"])
    # The first of them over a connection that is open already: nobody tells that it leads nowhere.
    assert until(lambda: answered(far, name) in {502, 503, 504}, LOST_S)
    assert answered(near, name) == 200
    fleet.lan.heal()
    assert until(lambda: answered(far, name) == 200, BACK_S)


def test_who_waits_for_an_engine_whose_machine_is_gone_is_told_so(fleet: FleetOverLan) -> None:
    name = fleet.web.create(node="two", params={"hang": True})["instance_id"]
    url = f"/proxy/{name}/v1/completions"
    body = {"model": "org/tiny", "prompt": "Hello"}
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(fleet.web.call, "POST", url, json=body, timeout=LOST_S)
        assert until(lambda: fleet.web.record(name)["last_active"], BACK_S)
        assert not until(waits.done, 1.0)
        fleet.lan.unplug(fleet.nodes["two"])
        assert waits.result().status_code in {502, 503}


# one address


def ask(web: WebTier, **more: Any) -> requests.Response:
    """Ask for a completion by the model's name."""
    body = {"model": "org/tiny", "prompt": "Hello", "max_tokens": 2, **more}
    return web.call("POST", "/v1/completions", json=body)


def test_requests_for_a_model_go_to_the_replica_whose_node_is_there(fleet: FleetOverLan) -> None:
    made = [fleet.web.create(node=name) for name in ("one", "two")]
    assert until(lambda: all(ask(web).status_code == 200 for web in fleet.webs), BACK_S)
    threading.Event().wait(POOLED_S)
    fleet.lan.unplug(fleet.nodes["one"])
    answers = [ask(fleet.webs[number % 2]).status_code for number in range(10)]
    assert answers == [200] * 10  # the connection was refused them, nothing was sent: the next one
    becomes_lost(fleet, "one")
    assert [ask(web).status_code for web in fleet.webs] == [200, 200]
    lose(fleet, "two")
    threading.Event().wait(POOLED_S)
    refused = ask(fleet.web)
    assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
    comes_back(fleet, "one")
    assert until(lambda: ask(fleet.web).status_code == 200, BACK_S)
    assert fleet.web.record(made[0]["instance_id"])["pid"] == made[0]["pid"]
