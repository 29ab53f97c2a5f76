"""Fixtures: `fleet`, shared by tests that leave it as they found it; `own_fleet`, to be broken.

Both have two nodes: `one` takes three instances, `two` takes two.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.harness import LocalFleet, local_fleet


@pytest.fixture(scope="session")
def shared_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    with local_fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        fleet.start_worker("one", VLLM_MAX_INSTANCES="3")
        fleet.start_worker("two", VLLM_MAX_INSTANCES="2")
        fleet.start_beat()
        fleet.start_web()
        yield fleet


@pytest.fixture
def fleet(shared_fleet: LocalFleet) -> Iterator[LocalFleet]:
    yield shared_fleet
    shared_fleet.delete_all()


@pytest.fixture
def own_fleet(tmp_path: Path) -> Iterator[LocalFleet]:
    with local_fleet(tmp_path) as fleet:
        yield fleet
