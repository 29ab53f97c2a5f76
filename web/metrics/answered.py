"""`GET /metrics`: what all web processes have answered, as one, for Prometheus.

Counting is plain Python, because it happens at every request; once a second a thread writes the
counts where the other web processes find them, and whichever of them is asked adds up.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import accumulate
from time import monotonic, perf_counter
from types import TracebackType
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from shared.domain.node import Node
from web.metrics.nodes import NodeMetrics
from web.metrics.snapshots import BOUNDS_S, Row, Snapshot, Snapshots, summed
from web.proxy.forwarding import INSTANCE
from web.tables.activity import Activity
from web.tables.routing import RoutingTable

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

KEEP_S = 600.0  # counts of an instance that is gone: two scrapes at the longest usual interval
NOBODY = "unknown"  # no instance is called so: ids end in a random suffix
_PROXY = "/proxy/"
_COUNTED = (_PROXY, "/v1/")
_RELAY = "relay"
_FLUSH_S = 1.0
_AT_LEAST_EVERY_S = 5.0  # is written, also when nothing was counted

log = logging.getLogger(__name__)


class Metrics:
    """What this web process counts, on its event loop and in its threads."""

    def __init__(self, snapshots: Snapshots, table: RoutingTable, activity: Activity) -> None:
        self._snapshots = snapshots
        self._table = table
        self._activity = activity
        self._name = snapshots.name_of_own()
        self.waiting: Callable[[], dict[str, int]] = dict
        """Returns how many requests wait for each model in this process."""
        self.nodes: Callable[[], list[Node]] = list
        """Returns all nodes, which every process hears of."""
        self._rows: dict[tuple[str, int, str], Row] = {}
        self._answers: dict[tuple[str, int, str], int] = {}  # of each row, at the last flush
        self._counting = threading.Lock()
        self._flushing = threading.Lock()
        self._written: Snapshot | None = None
        self._written_at = 0.0
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin to flush once a second, in a thread of its own.

        Its own, because a disk that hangs must not keep `Activity` from reporting.
        """
        threading.Thread(target=self._run, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stop flushing, after a last time, so that nothing counted is lost."""
        self._closed.set()
        self._flush_or_log()

    def answered(self, instance_id: str, status: int, way: str, seconds: float) -> None:
        """Count an answer that has ended.

        Args:
            instance_id: as the path had it; ids that nobody knows are counted as one.
            status: as the caller got it.
            way: "view", from any thread; or "relay", from the relay's one event loop only, which
                has rows of its own and takes no lock: that would cost as much as all the rest.
            seconds: from the request's head to the end of the answer.
        """
        row = self._rows.get((instance_id, status, way)) or self._row(instance_id, status, way)
        if way == _RELAY:
            row.buckets[bisect_left(BOUNDS_S, seconds)] += 1
            row.seconds += seconds
            return
        with self._counting:
            row.buckets[bisect_left(BOUNDS_S, seconds)] += 1
            row.seconds += seconds

    def flush(self) -> None:
        """Write what changed since the last flush where the other web processes find it.

        Forgets what was counted of instances that are gone for ten minutes.

        Raises:
            OSError: it cannot be written; nothing is lost, the next flush writes it all.
        """
        with self._flushing:
            self._age()
            now, snapshot = monotonic(), self._own()
            if snapshot == self._written and now - self._written_at < _AT_LEAST_EVERY_S:
                return
            self._snapshots.write(self._name, snapshot)
            self._written, self._written_at = snapshot, now

    def text(self) -> bytes:
        """Return the metrics of all web processes in Prometheus's text format."""
        self._flush_or_log()
        # Also what this process has counted is taken from its file: whichever process is asked
        # next sees the same files, and no counter goes down from one scrape to the next.
        living, ended = self._snapshots.read()
        if self._name not in living:  # a full disk; how the table stands can be said all the same
            living[self._name] = replace(self._own(), rows=[], in_flight={}, waiting={})
        fresh = [row for row in ended if not self._is_stale(row)]
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_All(list(living.values()), fresh))
        registry.register(NodeMetrics(self.nodes()))
        return generate_latest(registry)

    def _row(self, instance_id: str, status: int, way: str) -> Row:
        known = instance_id if self._table.knows(instance_id) else NOBODY
        new = Row(known, status, way, [0] * (len(BOUNDS_S) + 1), changed_at=monotonic())
        return self._rows.setdefault(new.key, new)

    def _age(self) -> None:
        """Note which rows have changed since the last time; drop the stale ones."""
        for key, row in list(self._rows.items()):
            answers = sum(row.buckets)
            if self._answers.get(key) != answers:
                self._answers[key] = answers
                row.changed_at = monotonic()
            elif self._is_stale(row):
                del self._rows[key], self._answers[key]

    def _is_stale(self, row: Row) -> bool:
        gone = row.instance_id != NOBODY and not self._table.routes(row.instance_id)
        return gone and monotonic() - row.changed_at > KEEP_S

    def _own(self) -> Snapshot:
        standing = self._table.standing()
        return Snapshot(
            rows=summed(list(self._rows.values())),  # copies: counting goes on
            in_flight=self._activity.in_flight(),
            waiting=self.waiting(),
            routed=standing.instances,
            confirmed_at=standing.confirmed_at,
            store_up=standing.store_up,
        )

    def _run(self) -> None:
        while not self._closed.wait(_FLUSH_S):
            self._flush_or_log()

    def _flush_or_log(self) -> None:
        try:
            self.flush()
        except OSError as error:
            log.debug("metrics of this process not written: %s", error)
        except Exception:
            log.exception("metrics of this process not written; trying again")


def add_metrics(app: Flask, metrics: Metrics) -> None:
    """Add `GET /metrics`, and count what the proxy's view answers."""

    @app.get("/metrics")
    def show_metrics() -> Response:
        return Response(metrics.text(), content_type=CONTENT_TYPE_LATEST)

    app.wsgi_app = _Counted(app.wsgi_app, metrics)  # type: ignore[method-assign]


class _Counted:
    """A WSGI application around another: it alone sees both a request's begin and its very end."""

    def __init__(self, app: WSGIApplication, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer as the application does; count it if it is the proxy's."""
        path: str = environ["PATH_INFO"]
        if not path.startswith(_COUNTED):
            return self._app(environ, start_response)
        begun = perf_counter()
        status = 0

        def note_status(
            line: str, headers: list[tuple[str, str]], exc_info: _ExcInfo | None = None
        ) -> Callable[[bytes], object]:
            nonlocal status
            status = int(line[:3])
            return start_response(line, headers, exc_info)

        body = self._app(environ, note_status)

        def count() -> None:
            named = path.removeprefix(_PROXY).partition("/")[0] if path.startswith(_PROXY) else ""
            instance_id = environ.get(INSTANCE, named)
            self._metrics.answered(instance_id, status, "view", perf_counter() - begun)

        return _Body(body, count)


class _Body:
    """An answer's body that tells when it is closed; adds nothing to each of its pieces."""

    def __init__(self, body: Iterable[bytes], ended: Callable[[], None]) -> None:
        self._body = body
        self._ended = ended

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """Close the body, then tell. WSGI servers call this once, however the answer ended."""
        try:
            if close := getattr(self._body, "close", None):
                close()
        finally:
            self._ended()


class _All(Collector):
    """The snapshots of all web processes as metrics."""

    def __init__(self, living: list[Snapshot], ended: list[Row]) -> None:
        self._living = living
        self._rows = summed([*(row for each in living for row in each.rows), *ended])

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; their names and labels are a promise to dashboards."""
        yield self._requests()
        yield self._seconds()
        yield self._in_flight()
        yield self._waiting()
        living = self._living
        yield _gauge(
            "fleet_web_processes", "Web processes that these numbers are from.", len(living)
        )
        yield _gauge(
            "fleet_routing_table_instances",
            "Instances in the shortest routing table of all web processes.",
            min(each.routed for each in living),
        )
        yield _gauge(
            "fleet_routing_age_seconds",
            "Since Redis last confirmed the oldest of the routing tables.",
            max(
                float("inf") if each.confirmed_at is None else monotonic() - each.confirmed_at
                for each in living
            ),
        )
        yield _gauge(
            "fleet_store_up",
            "1 if Redis answers every web process, else 0.",
            float(all(each.store_up for each in living)),
        )

    def _requests(self) -> Metric:
        family = CounterMetricFamily(
            "fleet_requests",
            "Answers of the proxy, by status and by the way they took.",
            labels=("instance", "code", "way"),
        )
        for row in self._rows:
            family.add_metric((row.instance_id, str(row.status), row.way), sum(row.buckets))
        return family

    def _seconds(self) -> Metric:
        family = HistogramMetricFamily(
            "fleet_request_seconds",
            "From a request's head to the end of its answer.",
            labels=("instance",),
        )
        by_instance = (Row(row.instance_id, 0, "", row.buckets, row.seconds) for row in self._rows)
        bounds = [*map(str, BOUNDS_S), "+Inf"]
        for row in summed(by_instance):
            cumulative = zip(bounds, accumulate(row.buckets), strict=True)
            family.add_metric((row.instance_id,), list(cumulative), row.seconds)
        return family

    def _waiting(self) -> Metric:
        family = GaugeMetricFamily(
            "fleet_model_waiting",
            "Requests that wait for a model to be started.",
            labels=("model",),
        )
        totals: dict[str, int] = {}
        for each in self._living:
            for model, number in each.waiting.items():
                totals[model] = totals.get(model, 0) + number
        for model, number in sorted(totals.items()):
            family.add_metric((model,), number)
        return family

    def _in_flight(self) -> Metric:
        family = GaugeMetricFamily(
            "fleet_requests_in_flight", "Requests under way in the proxy.", labels=("instance",)
        )
        known = {row.instance_id for row in self._rows} - {NOBODY}
        totals = dict.fromkeys(sorted(known), 0)
        for each in self._living:
            for instance_id, number in each.in_flight.items():
                totals[instance_id] = totals.get(instance_id, 0) + number
        for instance_id, number in totals.items():
            family.add_metric((instance_id,), number)
        return family


def _gauge(name: str, doc: str, value: float) -> Metric:
    return GaugeMetricFamily(name, doc, value=value)
