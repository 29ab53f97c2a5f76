"""Where instances go on machines with (simulated) GPUs: shares, the line, room that is made."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.store.redis import connect
from tests.demo.waiting import until
from tests.integration.harness import WAIT, LocalFleet, local_fleet

GIB = 1024


@pytest.fixture(scope="module")
def gpu_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """Two machines: `big` has two devices of 80 GiB in zone a, `small` has one of 24 GiB."""
    with local_fleet(tmp_path_factory.mktemp("gpus"), EVICT_AFTER="0", LINE_INTERVAL="1") as fleet:
        fleet.start_worker("big", NODE_FAKE_GPUS="2x80GiB", NODE_LABELS="zone=a,disk=fast")
        fleet.start_worker("small", NODE_FAKE_GPUS="1x24GiB", NODE_LABELS="zone=b")
        fleet.start_beat()
        fleet.start_web()
        yield fleet


@pytest.fixture
def gpus(gpu_fleet: LocalFleet) -> Iterator[LocalFleet]:
    yield gpu_fleet
    gpu_fleet.delete_all()


def ask(fleet: LocalFleet, *, wait: bool = True, query: str = "", **body: Any) -> Any:
    """Post a create; return the answer."""
    known = {"model_name": "org/tiny", "timeout": 600, "params": {}}
    path = f"/instances{query}"
    return fleet.call("POST", path, json=known | body, params=WAIT if wait else None)


def runs(fleet: LocalFleet, **body: Any) -> Any:
    """Create an instance; return its record once it runs."""
    record = ask(fleet, **body).json()
    assert record.get("status") == "running", record
    return record


def of_share(share: float, **params: object) -> dict[str, object]:
    return {"gpu_memory_utilization": share, **params}


def test_engines_share_a_gpu_while_their_shares_allow(gpus: LocalFleet) -> None:
    half = [runs(gpus, params=of_share(0.5), node="big") for _ in range(2)]
    assert [record["gpus"] for record in half] == [["SIM-big-0"]] * 2
    assert [record["share"] for record in half] == [0.5, 0.5]
    assert {record["simulated"] for record in half} == {True}
    whole = runs(gpus, params=of_share(0.9), node="big")
    assert whole["gpus"] == ["SIM-big-1"]
    small = runs(gpus, params=of_share(0.1), node="big")
    assert small["gpus"] == ["SIM-big-1"]
    full = ask(gpus, params=of_share(0.1), node="big")
    assert full.status_code == 503
    assert "GPU 0 has 1 of it claimed, GPU 1 has 1 of it claimed" in full.json()["error"]["message"]


def test_parallel_sizes_and_gpus_say_how_many(gpus: LocalFleet) -> None:
    both = runs(gpus, gpus=2)
    assert both["params"]["tensor_parallel_size"] == 2
    assert both["gpus"] == ["SIM-big-0", "SIM-big-1"]
    gpus.delete(both["instance_id"])
    named = runs(gpus, gpus=["big:1"], node="big")
    assert named["gpus"] == ["SIM-big-1"]
    by_uuid = runs(gpus, gpus=["SIM-small-0"])
    assert by_uuid["node"] == "small"


@pytest.mark.parametrize(
    ("body", "status", "field", "why"),
    [
        ({"gpus": 4, "params": {"tensor_parallel_size": 2}}, 400, "gpus", "make up 2"),
        ({"gpus": -1}, 400, "gpus", "neither how many"),
        ({"gpus": "all"}, 400, "gpus", "neither how many"),
        ({"gpus": True}, 400, "gpus", "neither how many"),
        ({"gpus": ["big:7"]}, 400, "gpus", "there is no GPU big:7; there are big:0, big:1, small"),
        ({"gpus": ["big:0", "SIM-big-0"]}, 400, "gpus", "is named twice"),
        ({"gpus": ["big:0", "small:0"]}, 400, "gpus", "of several nodes, big, small"),
        ({"gpus": ["big:0"], "node": "small"}, 400, "gpus", "are of node big, not of small"),
        ({"node": "not a name"}, 400, "node", "is not the name of a node"),
        ({"labels": {"zone": 1}}, 400, "labels.zone", "is not a string"),
        ({"labels": ["zone"]}, 400, "labels", "must be an object"),
        ({"queue": "yes"}, 400, "queue", "neither true nor false"),
        ({"evict": 1}, 400, "evict", "neither true nor false"),
        ({"priority": 1001}, 400, "priority", "from -1000 to 1000"),
        ({"params": of_share(1.2)}, 400, "params.gpu_memory_utilization", "above 0 and up to 1"),
        ({"node": "nowhere"}, 503, None, "big is not the node that is wanted, nowhere"),
        ({"node": "nowhere", "queue": True}, 503, None, "is not the node that is wanted"),
        ({"labels": {"zone": "c"}}, 503, None, "its label zone is a, zone=c is wanted"),
        ({"gpus": 0}, 503, None, "has GPUs, a node without is wanted"),
        ({"gpus": 8, "queue": True}, 503, None, "has 2 GPUs, 8 needed"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    gpus: LocalFleet, body: dict[str, Any], status: int, field: str | None, why: str
) -> None:
    answer = ask(gpus, **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, field), error
    assert why in error["message"]
    assert gpus.call("GET", "/instances").json() == {}


def test_labels_say_where(gpus: LocalFleet) -> None:
    assert runs(gpus, labels={"zone": "b"}, params=of_share(0.3))["node"] == "small"
    assert runs(gpus, labels={"zone": "a", "disk": "fast"})["node"] == "big"


def test_a_dry_run_says_all_and_changes_nothing(gpus: LocalFleet) -> None:
    body = {"params": of_share(0.4, max_model_len=512), "labels": {"zone": "a"}}
    said = ask(gpus, query="?dry_run=1", wait=False, **body)
    assert said.status_code == 200
    plan = said.json()
    assert (plan["outcome"], plan["node"], plan["gpus"]) == ("placed", "big", ["SIM-big-0"])
    assert plan["nodes"] == {"small": "does not match: its label zone is b, zone=a is wanted"}
    assert plan["simulated"] is True
    assert gpus.call("GET", "/instances").json() == {}
    made = runs(gpus, **body)
    cmdline = Path(f"/proc/{made['pid']}/cmdline").read_bytes().split(b"\0")
    words = [word.decode() for word in cmdline if word]
    expected = [word.replace("PORT", str(made["port"])) for word in plan["command"]]
    assert words[-len(expected) + 1 :] == expected[1:]
    assert plan["command_line"].split() == plan["command"]


def test_a_dry_run_says_who_would_go_or_wait_or_be_refused(gpus: LocalFleet) -> None:
    held = runs(gpus, node="small")
    whole = {"node": "small", "params": of_share(0.9)}

    def plan(**more: Any) -> Any:
        return ask(gpus, query="?dry_run=1", wait=False, **whole | more).json()

    refused = plan()
    assert refused["outcome"] == "refused"
    assert "small has 0 of 1 GPUs with room for 0.9" in refused["reason"]
    waits = plan(queue=True)
    assert (waits["outcome"], waits["position"]) == ("waits", 1)
    assert waits["eta"] == pytest.approx(held["ready_at"] + 600, abs=60)
    assert until(lambda: plan(evict=True)["outcome"] == "evicts", 20)  # once it has been quiet
    assert plan(evict=True)["evicts"] == [held["instance_id"]]
    assert gpus.record(held["instance_id"])["desired"] == "running"


def test_who_waits_in_line_is_placed_when_there_is_room(gpus: LocalFleet) -> None:
    held = runs(gpus, node="small")
    answer = ask(gpus, node="small", queue=True, wait=False)
    first = answer.json()
    assert (answer.status_code, first["status"], first["node"]) == (202, "pending", "")
    assert (first["position"], first["node_status"]) == (1, "none yet: it waits in line")
    assert first["eta"] == pytest.approx(held["ready_at"] + 600, abs=60)
    assert "small has 0 of 1 GPUs with room" in first["reason"]
    second = ask(gpus, node="small", queue=True, wait=False).json()
    urgent = ask(gpus, node="small", queue=True, priority=5, wait=False).json()
    positions = {
        record["instance_id"]: record["position"]
        for record in gpus.call("GET", "/instances?status=pending").json().values()
    }
    assert positions == {
        urgent["instance_id"]: 1, first["instance_id"]: 2, second["instance_id"]: 3,
    }  # fmt: skip
    gpus.delete(held["instance_id"])
    gpus.becomes(urgent["instance_id"], "running")
    assert gpus.record(first["instance_id"])["position"] == 1
    assert gpus.delete(first["instance_id"])["status"] == "deleted"  # it waits: at once
    gpus.delete(urgent["instance_id"])
    placed = gpus.becomes(second["instance_id"], "running")
    assert (placed["node"], placed["position"]) == ("small", None)


def test_nobody_overtakes_one_that_waits_for_a_node(gpus: LocalFleet) -> None:
    held = runs(gpus, gpus=["big:0"])
    large = ask(gpus, gpus=2, queue=True, wait=False).json()
    assert large["position"] == 1
    small = ask(gpus, gpus=1, node="big")
    assert small.status_code == 503
    ahead = f"is waited for by {large['instance_id']}, which is ahead in the line"
    assert ahead in small.json()["error"]["message"]
    runs(gpus, gpus=1)  # there is another node
    gpus.delete(held["instance_id"])
    assert gpus.becomes(large["instance_id"], "running")["node"] == "big"


def test_an_idle_instance_makes_room_for_a_wanted_one(gpus: LocalFleet) -> None:
    held = runs(gpus, node="small")
    name = held["instance_id"]
    answers: list[Any] = []

    def wanted() -> bool:
        answers.append(ask(gpus, node="small", evict=True, wait=False))
        return bool(answers[-1].status_code == 202)

    assert until(wanted, 20)  # refused while it counts as used
    made = answers[-1].json()
    assert (made["status"], made["reserved"]["node"]) == ("pending", "small")
    assert gpus.becomes(made["instance_id"], "running")["gpus"] == ["SIM-small-0"]
    gone = gpus.record(name)
    assert (gone["status"], gone["stop_by"]) == ("stopped", "evict")
    assert f"makes room for {made['instance_id']}" in gone["reason"]


def test_neither_a_pinned_nor_a_used_instance_makes_room(gpus: LocalFleet) -> None:
    pinned = runs(gpus, node="small", timeout=0)
    used = [runs(gpus, gpus=[f"big:{index}"])["instance_id"] for index in range(2)]
    over = threading.Event()

    def use(name: str) -> None:
        while not over.is_set():
            body = {"model": "org/tiny", "prompt": "x", "max_tokens": 4}
            gpus.call("POST", f"/proxy/{name}/v1/completions", json=body)

    users = [threading.Thread(target=use, args=(name,)) for name in used]
    for user in users:
        user.start()
    try:
        for _ in range(4):
            answer = ask(gpus, evict=True)
            assert answer.status_code == 503, answer.text
            over.wait(1.5)
    finally:
        over.set()
        for user in users:
            user.join()
    for name in (pinned["instance_id"], *used):
        assert gpus.record(name)["desired"] == "running"


def test_lists_page_and_are_filtered(gpus: LocalFleet) -> None:
    made = [runs(gpus, params=of_share(0.2), node="big")["instance_id"] for _ in range(3)]
    other = runs(gpus, model_name="org/other", params=of_share(0.2), node="small")["instance_id"]
    seen: list[str] = []
    path = "/instances?limit=2"
    while path:
        answer = gpus.call("GET", path)
        seen += answer.json()
        path = answer.links["next"]["url"] if "next" in answer.links else ""
    assert seen == [*made, other]
    for query, expected in [
        ("node=small", [other]),
        ("model=org/tiny", made),
        ("status=running", [*made, other]),
        ("status=pending", []),
        (f"after={made[1]}", [made[2], other]),
        ("node=big&limit=1", made[:1]),
    ]:
        assert [*gpus.call("GET", f"/instances?{query}").json()] == expected, query


@pytest.mark.parametrize(
    ("query", "field"), [("limit=0", "limit"), ("limit=x", "limit"), ("status=up", "status")]
)
def test_a_list_that_cannot_be_is_refused(gpus: LocalFleet, query: str, field: str) -> None:
    answer = gpus.call("GET", f"/instances?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


def test_who_waits_gets_what_joins_or_is_given_back(own_fleet: LocalFleet) -> None:
    own_fleet.start_web(LINE_INTERVAL="600")  # no beat here: those who know ring
    body = {"model_name": "org/tiny", "queue": True}
    first = own_fleet.call("POST", "/instances", json=body).json()
    assert (first["position"], first["reason"]) == (
        1, "no node has room: no worker has registered yet",
    )  # fmt: skip
    own_fleet.start_worker("one", VLLM_MAX_INSTANCES="2")
    assert own_fleet.becomes(first["instance_id"], "running")["node"] == "one"
    own_fleet.call("POST", "/nodes/one/cordon")
    second = own_fleet.call("POST", "/instances", json=body).json()
    assert "one is cordoned" in second["reason"]
    own_fleet.call("POST", "/nodes/one/uncordon")
    own_fleet.becomes(second["instance_id"], "running")


def test_an_emptied_redis_keeps_who_waits_in_line(gpus: LocalFleet) -> None:
    held = runs(gpus, node="small")["instance_id"]
    first, second, urgent = (
        ask(gpus, node="small", queue=True, priority=priority, wait=False).json()["instance_id"]
        for priority in (0, 0, 5)
    )
    assert until(lambda: second in gpus.call("GET", "/instances").json(), 20)
    connect(gpus.redis_url).flushall()

    def positions() -> list[Any]:
        return [gpus.record(name).get("position") for name in (urgent, first, second)]

    assert until(lambda: positions() == [1, 2, 3], 30), positions()
    assert until(lambda: gpus.record(held).get("status") == "running", 30)
    gpus.delete(held)
    gpus.becomes(urgent, "running", 30)
    gpus.delete(first)
    gpus.delete(second)


def test_a_misspelt_argument_creates_nothing(gpus: LocalFleet) -> None:
    answer = ask(gpus, query="?dryrun=1", wait=False)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "dryrun")
    assert gpus.call("GET", "/instances").json() == {}
    assert gpus.call("GET", "/instances?state=running").status_code == 400
