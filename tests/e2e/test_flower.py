"""Flower, as an operator sees it: workers, queues, task history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests

from tests.demo.fleet import Fleet
from tests.demo.waiting import until
from tests.e2e.conftest import CHAT_MODEL

_NEWEST_FIRST = (
    "draw=1&start=0&length=1000&order[0][column]=0&order[0][dir]=desc"
    "&columns[0][data]=received&search[value]="
)


def page(fleet: Fleet, path: str) -> requests.Response:
    """Return one of Flower's pages."""
    return requests.get(f"{fleet.flower}{path}", timeout=30)


def test_it_listens_on_loopback_only(fleet: Fleet) -> None:
    port = int(fleet.flower.rsplit(":", 1)[1])
    tables = [Path("/proc/net") / table for table in ("tcp", "tcp6")]
    sockets = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    listening = {
        local.split(":")[0]
        for _, local, _, state, *_ in sockets
        if int(local.split(":")[1], 16) == port and state == "0A"
    }
    assert listening == {"0100007F"}  # 127.0.0.1


def test_it_shows_the_worker_and_its_queues(fleet: Fleet, instances: dict[str, Any]) -> None:
    node = instances[CHAT_MODEL]["node"]
    assert until(lambda: f"worker@{node}" in page(fleet, "/workers").text, 30)
    brokers = page(fleet, "/broker").text
    assert f"node.{node}" in brokers
    assert "sweeps" in brokers


def test_its_history_says_what_ran_where(fleet: Fleet, instances: dict[str, Any]) -> None:
    record = instances[CHAT_MODEL]
    history = page(fleet, f"/tasks/datatable?{_NEWEST_FIRST}").json()["data"]
    start = next(
        task
        for task in history
        if task["name"] == "fleet.start_instance" and record["instance_id"] in task["args"]
    )
    assert start["state"] == "SUCCESS"
    assert start["worker"] == f"worker@{record['node']}"
    assert start["routing_key"] == f"node.{record['node']}"
