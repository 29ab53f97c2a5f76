"""Two nodes on one Redis: who gets what, and what Celery says of it."""

from __future__ import annotations

import json
import signal
from collections import Counter

import redis

from shared.queue import START_INSTANCE
from tests.demo.waiting import until
from tests.integration.harness import LocalFleet


def results(fleet: LocalFleet) -> list[dict[str, object]]:
    """Return all task results that Celery keeps in Redis."""
    with redis.Redis.from_url(fleet.redis_url, decode_responses=True) as client:
        keys = client.keys("fleet:celery:celery-task-meta-*")
        return [json.loads(text) for text in client.mget(keys) if text] if keys else []


def starts_of(fleet: LocalFleet, instance_id: str) -> list[dict[str, object]]:
    """Return the finished start tasks of an instance."""
    return [
        result
        for result in results(fleet)
        if result["name"] == START_INSTANCE
        and result["args"] == [instance_id]
        and result["status"] == "SUCCESS"
    ]


def test_each_task_reaches_only_its_nodes_worker(fleet: LocalFleet) -> None:
    records = [fleet.create() for _ in range(5)]
    for record in records:
        node, instance_id = record["node"], record["instance_id"]
        assert until(lambda: starts_of(fleet, instance_id), 10)  # noqa: B023 - used at once
        (start,) = starts_of(fleet, instance_id)
        assert start["worker"] == f"worker@{node}"
        assert start["queue"] == f"node.{node}"
        assert start["result"] == {"node": node, "instance_id": instance_id}


def test_flowers_history_says_what_ran_where(own_fleet: LocalFleet) -> None:
    own_fleet.start_worker("one", VLLM_MAX_INSTANCES="1")
    own_fleet.start_worker("two", VLLM_MAX_INSTANCES="1")
    own_fleet.start_web()
    flower = own_fleet.start_flower()
    records = [own_fleet.create() for _ in range(2)]
    assert {record["node"] for record in records} == {"one", "two"}
    query = (
        "draw=1&start=0&length=100&order[0][column]=0&order[0][dir]=desc"
        "&columns[0][data]=received&search[value]="
    )

    def ran() -> set[tuple[str, str]]:
        history = own_fleet.http.get(f"{flower}/tasks/datatable?{query}", timeout=10).json()
        return {(task["args"], task["worker"]) for task in history["data"] if task["worker"]}

    wanted = {(f"['{r['instance_id']}']", f"worker@{r['node']}") for r in records}
    assert until(lambda: wanted <= ran(), 15), ran()


def test_creates_go_where_there_is_room(fleet: LocalFleet) -> None:
    records = [fleet.create() for _ in range(5)]
    assert Counter(record["node"] for record in records) == {"one": 3, "two": 2}
    on_one = next(record for record in records if record["node"] == "one")
    fleet.delete(on_one["instance_id"])
    assert fleet.create()["node"] == "one"


def test_ports_come_from_the_nodes_own_range(fleet: LocalFleet) -> None:
    for record in [fleet.create() for _ in range(4)]:
        first = fleet.base_port(record["node"])
        assert first <= record["port"] <= first + 3


def test_starts_at_the_same_moment_get_ports_of_their_own(own_fleet: LocalFleet) -> None:
    own_fleet.start_web()
    worker = own_fleet.start_worker("one")
    worker.popen.send_signal(signal.SIGSTOP)  # so that one look sees all of them
    bodies = [{"model_name": "org/tiny"}] * 4
    made = [own_fleet.call("POST", "/instances", json=body).json() for body in bodies]
    worker.popen.send_signal(signal.SIGCONT)
    ports = {own_fleet.becomes(record["instance_id"], "running")["port"] for record in made}
    assert len(ports) == 4


def test_many_creates_at_once_never_exceed_the_nodes(fleet: LocalFleet) -> None:
    bodies = [{"model_name": "org/tiny"}] * 12
    answers = [fleet.call("POST", "/instances", json=body) for body in bodies]
    assert Counter(answer.status_code for answer in answers) == {202: 5, 503: 7}


def test_a_stopped_node_gets_nothing(own_fleet: LocalFleet) -> None:
    own_fleet.start_web()
    own_fleet.start_worker("one")
    two = own_fleet.start_worker("two")
    two.end()
    assert {own_fleet.create()["node"] for _ in range(3)} == {"one"}


def test_a_second_worker_of_a_node_refuses_to_start(own_fleet: LocalFleet) -> None:
    own_fleet.start_worker("one")
    second = own_fleet.start(
        "second",
        [*own_fleet.processes[-1].popen.args],  # type: ignore[misc]
        {"NODE_NAME": "one", "RUN_DIR": str(own_fleet.run_dir("one"))},
    )
    assert second.popen.wait(10) == 3
    assert "a worker already runs" in second.log.read_text()


def test_a_second_machine_of_the_same_name_refuses_to_start(own_fleet: LocalFleet) -> None:
    own_fleet.start_web()
    own_fleet.start_worker("one")
    kept = own_fleet.create()
    second = own_fleet.start(
        "second",
        [*own_fleet.processes[-1].popen.args],  # type: ignore[misc]
        {"NODE_NAME": "one", "RUN_DIR": str(own_fleet.run_dir("elsewhere"))},
    )
    assert second.popen.wait(30) == 3
    assert "give each its own NODE_NAME" in second.log.read_text()
    assert own_fleet.record(kept["instance_id"])["pid"] == kept["pid"]
    assert own_fleet.create()["node"] == "one"
