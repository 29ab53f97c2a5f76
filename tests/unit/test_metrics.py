"""What the web processes have answered, as one: counted, kept, added up, forgotten."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from flask import Flask, Response
from prometheus_client.parser import text_string_to_metric_families
from werkzeug.test import Client, EnvironBuilder, run_wsgi_app

from shared.domain.instance import Status
from shared.errors import Conflict
from shared.store import Change
from shared.store.memory import MemoryStore
from tests.builders import a_node, an_instance
from web.http.errors import add_error_handlers
from web.metrics.answered import KEEP_S, Metrics, add_metrics
from web.metrics.snapshots import Row, Snapshot, Snapshots, summed
from web.tables.activity import Activity
from web.tables.routing import RoutingTable

GONE = 2**22 + 1  # no process has this pid: more than the kernel's largest pid_max


class Process:
    """What one web process has of it all."""

    def __init__(self, folder: Path, store: MemoryStore) -> None:
        self.table = RoutingTable(store)
        self.table.refresh()
        self.activity = Activity(store)
        self.metrics = Metrics(Snapshots(folder, 1), self.table, self.activity)

    def shows(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Return sample name → label values → value, of what it answers."""
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(self.metrics.text().decode()):
            for sample in family.samples:
                values = tuple(value for _, value in sorted(sample.labels.items()))
                found.setdefault(sample.name, {})[values] = sample.value
        return found


def run(store: MemoryStore, instance_id: str) -> None:
    """Record an instance that runs."""
    assert store.create(an_instance(instance_id=instance_id), 9)
    move(store, instance_id, Status.STARTING, Status.RUNNING)


def move(store: MemoryStore, instance_id: str, *statuses: Status) -> None:
    """Move an instance along."""
    for status in statuses:
        change = Change(instance_id=instance_id, node="one", epoch=1, generation=1, status=status)
        assert store.apply(change)


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.announce(a_node(), "worker")
    run(store, "i1")
    run(store, "i2")
    return store


@pytest.fixture
def process(tmp_path: Path, store: MemoryStore) -> Callable[[], Process]:
    """Return what makes web processes of one master."""
    return lambda: Process(tmp_path, store)


def test_answers_are_counted_by_instance_status_and_way(process: Callable[[], Process]) -> None:
    one = process()
    for status, way in ((200, "relay"), (200, "relay"), (200, "view"), (503, "view")):
        one.metrics.answered("i1", status, way, 0.1)
    one.metrics.answered("i2", 200, "relay", 0.1)
    assert one.shows()["fleet_requests_total"] == {
        ("200", "i1", "relay"): 2,
        ("200", "i1", "view"): 1,
        ("503", "i1", "view"): 1,
        ("200", "i2", "relay"): 1,
    }


def test_times_fall_into_cumulative_buckets(process: Callable[[], Process]) -> None:
    one = process()
    for seconds in (0.001, 0.01, 0.011, 4.0, 1000.0):
        one.metrics.answered("i1", 200, "relay", seconds)
    shown = one.shows()
    buckets = {le: n for (_, le), n in shown["fleet_request_seconds_bucket"].items()}
    assert buckets == {
        "0.01": 2, "0.05": 3, "0.2": 3, "1.0": 3, "5.0": 4, "20.0": 4, "60.0": 4, "300.0": 4,
        "+Inf": 5,
    }  # fmt: skip
    assert shown["fleet_request_seconds_count"] == {("i1",): 5}
    assert shown["fleet_request_seconds_sum"][("i1",)] == pytest.approx(1004.022)


def test_any_process_answers_for_all(process: Callable[[], Process]) -> None:
    one, two = process(), process()
    one.metrics.answered("i1", 200, "relay", 0.1)
    two.metrics.answered("i1", 200, "relay", 0.1)
    two.metrics.answered("i2", 200, "relay", 0.1)
    for each, instance_id in ((one, "i1"), (two, "i1"), (two, "i2")):
        each.activity.begin(instance_id)
    one.metrics.flush()
    two.metrics.flush()
    for each in (one, two):
        shown = each.shows()
        assert shown["fleet_requests_total"] == {
            ("200", "i1", "relay"): 2,
            ("200", "i2", "relay"): 1,
        }
        assert shown["fleet_requests_in_flight"] == {("i1",): 2, ("i2",): 1}
        assert shown["fleet_web_processes"] == {(): 2}
        assert shown["fleet_routing_table_instances"] == {(): 2}


def test_who_waits_for_a_model_is_added_up(process: Callable[[], Process]) -> None:
    one, two = process(), process()
    one.metrics.waiting = lambda: {"chat": 2}
    two.metrics.waiting = lambda: {"chat": 1, "words": 4}
    two.metrics.flush()
    assert one.shows()["fleet_model_waiting"] == {("chat",): 3, ("words",): 4}


def test_what_ended_processes_counted_stays_and_what_they_held_does_not(
    tmp_path: Path, process: Callable[[], Process]
) -> None:
    one, two = process(), process()
    snapshots = Snapshots(tmp_path, 1)
    rows = [Row("i1", 200, "relay", [3] + [0] * 8, 0.5, monotonic())]
    for n in (1, 2):
        gone = Snapshot(rows=rows, in_flight={"i1": 5}, routed=0, store_up=False)
        snapshots.write(f"{GONE}-{n}.json", gone)
        assert one.shows()["fleet_web_processes"] == {(): 2}
        snapshots.merge([os.getpid()])
    two.metrics.answered("i1", 200, "relay", 0.1)
    two.metrics.flush()
    shown = one.shows()
    assert shown["fleet_requests_total"] == {("200", "i1", "relay"): 7}
    assert shown["fleet_requests_in_flight"] == {("i1",): 0}
    assert shown["fleet_web_processes"] == {(): 2}
    files = (tmp_path / "web/metrics/1").iterdir()
    assert {path.name.partition("-")[0] for path in files} == {str(os.getpid()), "ended.json"}


def test_one_that_is_merged_while_it_is_read_counts_once(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, 1)
    name = f"{GONE}-1.json"
    snapshot = Snapshot(rows=[Row("i1", 200, "relay", [1] + [0] * 8, 0.5, monotonic())])
    snapshots.write(name, snapshot)
    snapshots.merge([])
    snapshots.write(name, snapshot)  # as if it were not removed yet
    living, ended = snapshots.read()
    assert (living, [sum(row.buckets) for row in ended]) == ({}, [1])


def test_counts_of_another_version_end_nothing(
    tmp_path: Path, process: Callable[[], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = Snapshots(tmp_path, 1)
    with monkeypatch.context() as newer:
        newer.setattr("web.metrics.snapshots._FORMAT", [2])
        snapshots.write(f"{GONE}-1.json", Snapshot(rows=[Row("i1", 200, "relay", [1], 0.5)]))
    assert "fleet_requests_total" not in process().shows()
    snapshots.merge([])
    assert "fleet_requests_total" not in process().shows()


def test_the_counts_of_a_process_are_written_at_its_end(process: Callable[[], Process]) -> None:
    one, two = process(), process()
    one.metrics.answered("i1", 200, "relay", 0.1)
    one.metrics.close()
    assert two.shows()["fleet_requests_total"] == {("200", "i1", "relay"): 1}


def test_a_thread_writes_them_every_second(process: Callable[[], Process]) -> None:
    one, two = process(), process()
    one.metrics.start()
    one.metrics.answered("i1", 200, "relay", 0.1)
    waited = threading.Event()
    for _ in range(100):
        if "fleet_requests_total" in two.shows():
            break
        waited.wait(0.05)
    one.metrics.close()
    assert two.shows()["fleet_requests_total"] == {("200", "i1", "relay"): 1}


def test_no_caller_can_make_series(process: Callable[[], Process]) -> None:
    one = process()
    for n in range(1000):
        one.metrics.answered(f"made-up-{n}", 404, "view", 0.1)
    assert one.shows()["fleet_requests_total"] == {("404", "unknown", "view"): 1000}


def test_an_instance_that_ended_is_forgotten_after_a_while(
    process: Callable[[], Process], store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = process(), process()
    one.metrics.answered("i1", 200, "relay", 0.1)
    one.metrics.answered("i2", 200, "relay", 0.1)
    one.metrics.flush()
    move(store, "i1", Status.STOPPING, Status.STOPPED)
    for each in (one, two):
        each.table.refresh()
    assert ("200", "i1", "relay") in two.shows()["fleet_requests_total"]
    monkeypatch.setattr("web.metrics.answered.KEEP_S", 0.0)
    one.metrics.flush()
    assert two.shows()["fleet_requests_total"] == {("200", "i2", "relay"): 1}
    assert KEEP_S > 0


def test_sums_of_ended_processes_are_forgotten_with_the_instance(
    tmp_path: Path, process: Callable[[], Process]
) -> None:
    one = process()
    rows = [
        Row(name, 200, "relay", [1] + [0] * 8, 0.5, monotonic() - 2 * KEEP_S)
        for name in ("i1", "old")
    ]
    snapshots = Snapshots(tmp_path, 1)
    snapshots.write(f"{GONE}-1.json", Snapshot(rows=rows))
    snapshots.merge([])
    assert one.shows()["fleet_requests_total"] == {("200", "i1", "relay"): 1}


def test_the_table_and_the_store_are_watched(
    process: Callable[[], Process], store: MemoryStore
) -> None:
    one = process()
    shown = one.shows()
    assert shown["fleet_store_up"] == {(): 1}
    assert 0 <= shown["fleet_routing_age_seconds"][()] < 60
    blind = Metrics(Snapshots(Path("/nowhere"), 1), RoutingTable(store), one.activity)
    assert b"fleet_store_up 0.0" in blind.text()
    assert b"fleet_routing_age_seconds +Inf" in blind.text()


def test_threads_lose_no_count(process: Callable[[], Process]) -> None:
    one = process()

    def count() -> None:
        for _ in range(20_000):
            one.metrics.answered("i1", 200, "view", 0.1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        one.metrics.flush()
    for thread in threads:
        thread.join()
    assert one.shows()["fleet_requests_total"] == {("200", "i1", "view"): 80_000}


def test_no_counter_goes_down_whichever_process_is_asked(process: Callable[[], Process]) -> None:
    one, two = process(), process()
    seen: list[float] = []
    for _ in range(3):
        one.metrics.answered("i1", 200, "relay", 0.1)
        shown = [each.shows()["fleet_requests_total"] for each in (one, two)]
        seen += [requests["200", "i1", "relay"] for requests in shown]
    assert seen == [1, 1, 2, 2, 3, 3]


def test_on_a_full_disk_a_process_counts_on_and_still_answers(
    process: Callable[[], Process],
) -> None:
    one = process()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # every write fails: EFBIG
    try:
        one.metrics.answered("i1", 200, "view", 0.1)
        with pytest.raises(OSError, match="too large"):
            one.metrics.flush()
        assert one.shows()["fleet_store_up"] == {(): 1}
        Snapshots(Path("/proc/nowhere"), 1).merge([])  # it must not end the master
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    one.metrics.flush()
    assert process().shows()["fleet_requests_total"] == {("200", "i1", "view"): 1}


def test_a_master_begins_with_an_empty_folder_and_removes_those_of_the_gone(
    tmp_path: Path,
) -> None:
    for pid in (1, GONE, os.getpid()):
        Snapshots(tmp_path, pid).write("1-1.json", Snapshot())
    (tmp_path / "web/metrics/other").mkdir()
    Snapshots(tmp_path, os.getpid()).clear()
    assert [path.name for path in (tmp_path / "web/metrics").iterdir()] == ["1"]
    Snapshots(tmp_path, 1).remove()
    assert list((tmp_path / "web/metrics").iterdir()) == []


def test_a_first_master_finds_no_folder(tmp_path: Path) -> None:
    Snapshots(tmp_path / "new", 1).clear()
    assert not (tmp_path / "new").exists()


def test_summing_leaves_what_it_is_given() -> None:
    rows = [Row("i1", 200, "relay", [1, 2], 0.5, 3.0), Row("i1", 200, "relay", [10, 20], 5.0, 2.0)]
    assert summed(rows) == [Row("i1", 200, "relay", [11, 22], 5.5, 3.0)]
    assert rows[0].buckets == [1, 2]


# the view's answers


@pytest.fixture
def web(process: Callable[[], Process]) -> tuple[Flask, Process]:
    """Return an application with a stand-in for the proxy's view, and its process."""
    one, app = process(), Flask("test")
    add_error_handlers(app)

    @app.get("/proxy/<instance_id>/<what>")
    def view(instance_id: str, what: str) -> Response:
        if what == "conflict":
            raise Conflict(instance_id)
        return Response(iter([b"a", b"b"]), 201, direct_passthrough=True)

    add_metrics(app, one.metrics)
    return app, one


def test_what_the_view_answers_is_counted_at_the_end(web: tuple[Flask, Process]) -> None:
    app, one = web
    body, status, _ = run_wsgi_app(app, environ("/proxy/i1/v1"))
    pieces = iter(body)
    assert (status, next(pieces)) == ("201 CREATED", b"a")
    assert "fleet_requests_total" not in one.shows()
    body.close()  # type: ignore[attr-defined]
    assert one.shows()["fleet_requests_total"] == {("201", "i1", "view"): 1}


def test_errors_are_counted_and_other_routes_are_not(web: tuple[Flask, Process]) -> None:
    app, one = web
    client = Client(app)
    for path in ("/proxy/i1/conflict", "/proxy/nobody/x/y", "/proxy/", "/metrics", "/instances"):
        client.get(path).close()
    assert one.shows()["fleet_requests_total"] == {
        ("409", "i1", "view"): 1,
        ("404", "unknown", "view"): 2,
    }


def test_metrics_come_as_prometheus_reads_them(web: tuple[Flask, Process]) -> None:
    app, _ = web
    answer = Client(app).get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert b"# TYPE fleet_web_processes gauge\nfleet_web_processes 1.0\n" in answer.data


def environ(path: str) -> dict[str, Any]:
    """Return a WSGI environ of a GET."""
    return EnvironBuilder(path).get_environ()
