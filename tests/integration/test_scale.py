"""That no operation costs Redis more in a larger fleet: what `make scale` proves at full size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.queue import Doorbells, celery_app
from shared.store.redis import RedisStore, connect
from tests.builders import settings
from tests.redis_server import running_redis
from tests.scale import report
from tests.scale.alone import Cost, alone
from tests.scale.fleet import Fleet, fill
from tests.scale.meter import Times
from tests.scale.together import Together
from web.tables.node_table import NodeTable

SIZES = (10, 40)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[report.Run]:
    found = []
    for nodes in SIZES:
        fleet = Fleet(nodes)
        with running_redis(Path(tmp_path_factory.mktemp("scale"))) as url:
            costs = alone(url, fleet, repeats=20)
        found.append(report.Run(nodes=nodes, instances=10 * nodes, alone=costs))
    return found


def test_no_operation_costs_more_commands_or_bytes_in_a_larger_fleet(
    runs: list[report.Run],
) -> None:
    assert report.faults(runs) == []


def test_what_reads_everything_is_told_apart(runs: list[report.Run]) -> None:
    small, large = (run.alone["once: routing table read whole"] for run in runs)
    assert large.commands > 3 * small.commands


def a_run(nodes: int, commands: float) -> report.Run:
    """Return what was measured of one operation."""
    cost = Cost(Times(1, 1.0, 1.0), commands, 100.0, 10.0, 10.0)
    return report.Run(nodes=nodes, instances=10 * nodes, alone={"an operation": cost})


def test_an_operation_that_grows_is_a_fault() -> None:
    assert report.faults([a_run(10, 20.0), a_run(1000, 21.0)]) == []
    assert report.faults([a_run(10, 20.0), a_run(1000, 60.0)]) == [
        "an operation: 60 commands with 1000 nodes, 20 with 10"
    ]


SEEN = Together(
    seconds=60.0,
    times={},
    windows=(0.6, 0.8, 0.7),
    slowed=1.2,
    redis_cpu=0.3,
    redis_commands=1.0,
    redis_mib=1.0,
    redis_connections=1,
    web_cpu=0.4,
    web_mib=1.0,
    watcher_cpu=0.1,
    callers_cpu=0.1,
    nodes_cpu=0.5,
    churn=50.0,
    churned=50.0,
    refused=0,
    late_s=0.1,
)


@pytest.mark.parametrize(
    ("seen", "fault"),
    [
        (replace(SEEN, web_cpu=0.8), "1.10 cores"),
        (replace(SEEN, refused=1), "1 calls failed"),
        (replace(SEEN, churned=12.0), "12.0 of 50 created a second"),
        (replace(SEEN, late_s=11.0), "a beat was 11.0 s late: the simulation lags"),
    ],
)
def test_what_was_not_as_it_must_be_is_a_fault(seen: Together, fault: str) -> None:
    whole = replace(a_run(10, 20.0), together=SEEN)
    assert report.faults([whole]) == []
    assert report.faults([replace(whole, together=seen)]) == [f"10 nodes: {fault}"]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A Redis of its own: what others ask of it would be counted, too."""
    with running_redis(tmp_path) as url:
        yield url


def test_a_creations_steps_take_few_round_trips(url: str) -> None:
    fleet = Fleet(2)
    with (
        closing(connect(url)) as client,
        closing(connect(url)) as watching,
        celery_app(settings(REDIS_URL=url), keep_results=False) as app,
    ):
        store = RedisStore(client)
        fill(store, fleet)
        first, second = list(fleet.stays("n0000"))[:2]
        doorbells, table = Doorbells(app, client), NodeTable(store)

        def trips(operation: Callable[[], object]) -> int:
            operation()  # once to connect
            before = _reads(watching)
            operation()
            return _reads(watching) - before - 1  # but for the look itself

        assert trips(lambda: doorbells.stop(first)) == 1  # the message and the event of it
        assert trips(table.refresh) == 1
        assert trips(lambda: store.stop(second.instance_id, reason="enough", by="user")) == 2


def _reads(watching: Any) -> int:
    return int(watching.info("stats")["total_reads_processed"])


def test_the_report_goes_where_its_place_is() -> None:
    document = f"before\n\n{report.BEGIN}\n\nold\n\n{report.END}\n\nafter\n"
    written = report.with_section(document, "new")
    assert written == f"before\n\n{report.BEGIN}\n\nnew\n\n{report.END}\n\nafter\n"
