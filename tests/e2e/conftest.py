"""Fixtures: `fleet`, a real one by `make run`, and two models on real vLLM, loaded side by side."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.demo.fleet import Fleet, running_fleet

CHAT_MODEL = "SmolLM2-135M-Instruct"
EMBEDDING_MODEL = "all-MiniLM-L6-v2"
_LOAD_S = 600  # two loads side by side on two busy cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/e2e/" in str(item.path):
            item.add_marker(pytest.mark.timeout(_LOAD_S + 60))


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("e2e")
    with running_fleet(folder, {"IDLE_SWEEP_INTERVAL": "1"}, command=["make", "run"]) as running:
        yield running


@pytest.fixture(scope="session")
def instances(fleet: Fleet) -> dict[str, Any]:
    """Return the running records of both models, by model name."""
    bodies = [
        {
            "model_name": CHAT_MODEL,
            "params": {"max_model_len": 1024, "enforce_eager": True},
            "timeout": 0,
        },
        {"model_name": EMBEDDING_MODEL, "params": {"enforce_eager": True}, "timeout": 0},
    ]
    with ThreadPoolExecutor() as pool:
        records = list(pool.map(lambda body: create(fleet, body), bodies))
    return {record["model_name"]: record for record in records}


def create(fleet: Fleet, body: dict[str, Any]) -> Any:
    """Create an instance on real vLLM; return its record once it runs."""
    answer = requests.post(
        f"{fleet.base}/instances", params={"wait": _LOAD_S}, json=body, timeout=_LOAD_S + 30
    )
    record = answer.json()
    assert record.get("status") == "running", record
    return record
