"""Fixtures: `fleet`, shared by tests that leave it as they found it; `own_fleet`, to be broken.

Both have two nodes: `one` takes three instances, `two` takes two. `way` is a web tier of each kind
in turn, shared; `case` an instance behind it whose engine the test speaks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.integration.conformance import Case, Way, running_way, ways
from tests.integration.harness import LocalFleet, local_fleet

settings.register_profile("long", max_examples=5000, deadline=None)

_LONGEST_FIRST = ("test_netns", "test_supervision", "test_web_processes", "test_keys", "test_idle")
"""One of them begun last would keep one process busy and the others waiting."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests go to the same process: those of a file, which share what is costly to start.

    All that speak to a web tier of one kind, too: its fixture lives as long as they come in a row.
    """
    for item in items:
        callspec = getattr(item, "callspec", None)
        way = callspec.params.get("way") if callspec else None
        item.add_marker(pytest.mark.xdist_group(way or item.path.stem))
    items.sort(key=lambda item: item.path.stem not in _LONGEST_FIRST)


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


@pytest.fixture(scope="session", params=ways())
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    with running_way(request.param, tmp_path_factory.mktemp(request.param)) as way:
        yield way


@pytest.fixture
def case(way: Way) -> Iterator[Case]:
    case = Case(way)
    yield case
    case.close()
