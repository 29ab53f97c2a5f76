"""How Celery is set up on both ends; a doorbell that cannot be rung."""

import logging
import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
from celery import Celery

from shared.queue import (
    EXPIRE_IDLE,
    START_INSTANCE,
    STOP_INSTANCE,
    Doorbells,
    celery_app,
    node_queue,
)
from shared.store.redis import connect
from tests.builders import an_instance, settings

# docs: docs/ARCHITECTURE.md, "Celery and Redis, as measured".
MEASURED = {
    "task_acks_late": True,
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    "broker_channel_error_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "task_create_missing_queues": False,
    "task_serializer": "json",
    "result_serializer": "json",
    "accept_content": ["json"],
    "enable_utc": True,
    "timezone": "UTC",
    "result_expires": 86_400,
    "visibility_timeout": 120,
}
TRANSPORT = {
    "visibility_timeout": 120,
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
}


def an_app(*, worker: bool, redis_url: str = "redis://127.0.0.1:1/0") -> Celery:
    """Return the application of one end."""
    return celery_app(settings(REDIS_URL=redis_url), keep_results=worker)


@pytest.mark.parametrize("worker", [True, False])
@pytest.mark.parametrize(("name", "value"), MEASURED.items())
def test_a_measured_setting(name: str, value: object, worker: bool) -> None:
    assert an_app(worker=worker).conf[name] == value


@pytest.mark.parametrize("worker", [True, False])
@pytest.mark.parametrize(("name", "value"), TRANSPORT.items())
def test_a_measured_transport_option(name: str, value: object, worker: bool) -> None:
    assert an_app(worker=worker).conf.broker_transport_options[name] == value


@pytest.mark.parametrize("name", ["socket_timeout", "socket_connect_timeout"])
def test_the_web_tier_waits_two_seconds_for_redis(name: str) -> None:
    assert an_app(worker=False).conf.broker_transport_options[name] == 2


def test_a_worker_waits_longer_than_its_blocking_read() -> None:
    assert an_app(worker=True).conf.broker_transport_options["socket_timeout"] > 1


def test_the_web_tier_does_not_retry_publishing() -> None:
    assert an_app(worker=False).conf.task_publish_retry is False


def test_a_producer_keeps_no_results() -> None:
    assert an_app(worker=False).conf.result_backend is None


def test_a_worker_keeps_results_in_redis() -> None:
    assert an_app(worker=True).conf.result_backend == "redis://127.0.0.1:1/0"


def test_celery_has_its_own_names_in_redis() -> None:
    options = an_app(worker=True).conf
    assert options.broker_transport_options["global_keyprefix"] == "fleet:celery:"
    assert options.result_backend_transport_options["global_keyprefix"] == "fleet:celery:"


def test_a_unix_socket_is_named_as_celery_names_it() -> None:
    app = an_app(worker=True, redis_url="unix:///run/redis.sock")
    assert app.conf.broker_url == "redis+socket:///run/redis.sock"


def test_a_node_has_a_queue_of_its_own() -> None:
    queue = node_queue("one")
    assert (queue.name, queue.exchange.name, queue.routing_key) == ("node.one",) * 3


def test_tasks_have_names_that_both_ends_know() -> None:
    assert {START_INSTANCE, STOP_INSTANCE, EXPIRE_IDLE} == {
        "fleet.start_instance",
        "fleet.stop_instance",
        "fleet.expire_idle",
    }


@pytest.fixture
def doorbells() -> Iterator[Doorbells]:
    """Doorbells whose Redis is away."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{closed.getsockname()[1]}/0"
    with an_app(worker=False, redis_url=url) as app:
        yield Doorbells(app, connect(url))


@pytest.mark.parametrize("task", ["start", "stop"])
def test_a_bell_that_cannot_be_rung_is_logged_and_not_raised(
    task: str, doorbells: Doorbells, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        getattr(doorbells, task)(an_instance(instance_id="smol-x"))
    assert f"doorbell fleet.{task}_instance smol-x not rung" in caplog.text


def test_a_bell_that_cannot_be_rung_keeps_nobody_waiting(doorbells: Doorbells) -> None:
    begun = monotonic()
    doorbells.start(an_instance())
    assert monotonic() - begun < 3.0


def test_a_tls_url_tells_celery_to_check_the_certificate() -> None:
    app = celery_app(settings(REDIS_URL="rediss://redis.example:6380/0"), keep_results=True)
    connection: Any = app.backend
    assert connection.connparams["ssl_cert_reqs"] is not None
