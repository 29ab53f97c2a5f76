"""The doorbells: which task rings whom, and how Celery is set up on both ends.

A task says "look at instance X" and nothing else; losing, repeating or reordering tasks changes
only latency, because every supervisor also looks at all records of its node every few seconds.
"""

from __future__ import annotations

import logging
from typing import Any

import redis
from celery import Celery
from kombu import Exchange, Queue

from shared.domain.instance import Instance
from shared.settings import Settings
from shared.task_message import TaskMessages

START_INSTANCE = "fleet.start_instance"
STOP_INSTANCE = "fleet.stop_instance"
EXPIRE_IDLE = "fleet.expire_idle"
PLACE_WAITING = "fleet.place_waiting"

SWEEPS = "sweeps"
"""Queue of what any worker may do: beat's periodic tasks, and serving the line."""

TASK_EXPIRES_S = 300  # a lost node that comes back does not answer an hour of old doorbells
LINE_EXPIRES_S = 30  # beat looks at the line more often than that
RESULT_EXPIRES_S = 86_400

log = logging.getLogger(__name__)


def queue_of(node: str) -> str:
    """Return the name of the queue that only the worker of `node` reads."""
    return f"node.{node}"


def node_queue(node: str) -> Queue:
    """Return the queue that only the worker of `node` reads."""
    name = queue_of(node)
    return Queue(name, Exchange(name, type="direct"), routing_key=name)


def sweeps_queue() -> Queue:
    """Return the queue of periodic tasks."""
    return Queue(SWEEPS, Exchange(SWEEPS, type="direct"), routing_key=SWEEPS)


def celery_app(settings: Settings, *, keep_results: bool) -> Celery:
    """Return a Celery application on the fleet's Redis.

    Args:
        settings: of this process.
        keep_results: True where tasks run. A producer keeps none: a result backend there would
            hold one pub/sub channel per task sent, for ever (measured).
    """
    url = _broker_url(settings.redis_url)
    app = Celery("fleet", broker=url, backend=url if keep_results else None, set_as_current=False)
    app.conf.update(_settings(worker=keep_results))
    return app


class Doorbells:
    """Rings nodes through Celery; a bell that cannot be rung is logged, never raised.

    The record is written first and says everything; the node finds it at its next pass.
    """

    def __init__(self, app: Celery, client: redis.Redis) -> None:
        """Ring by messages of `app`, over a client of its broker."""
        self._messages = TaskMessages(app, client)

    def start(self, instance: Instance) -> None:
        """Tell the instance's node to look at it: it is to run; or that it waits in line."""
        if instance.waiting:
            self.line()
        else:
            self._ring(START_INSTANCE, instance)

    def stop(self, instance: Instance) -> None:
        """Tell the instance's node to look at it: it is to stop."""
        if instance.node:
            self._ring(STOP_INSTANCE, instance)

    def line(self) -> None:
        """Have some worker serve the line: somebody waits, and there may be room."""
        self._send(PLACE_WAITING, [], SWEEPS, LINE_EXPIRES_S)

    def _ring(self, task: str, instance: Instance) -> None:
        self._send(task, [instance.instance_id], queue_of(instance.node), TASK_EXPIRES_S)

    def _send(self, task: str, args: list[str], queue: str, expires_s: int) -> None:
        try:
            self._messages.send(task, args, queue=queue, expires_s=expires_s)
        except redis.RedisError as error:
            log.warning("doorbell %s %s not rung: %s", task, " ".join(args), error)


def _broker_url(redis_url: str) -> str:
    # kombu and Celery's result backend call a Unix socket redis+socket:, redis-py calls it unix:
    url = redis_url.replace("unix://", "redis+socket://", 1)
    if url.startswith("rediss://") and "ssl_cert_reqs=" not in url:
        # redis-py checks certificates by default; Celery wants to be told
        url += ("&" if "?" in url else "?") + "ssl_cert_reqs=required"
    return url


def _settings(*, worker: bool) -> dict[str, Any]:
    """Return Celery's settings; the reasons are measurements, see docs/ARCHITECTURE.md."""
    # A worker's socket timeout must be longer than the one second that its BRPOP waits; the web
    # tier answers people, so a frozen Redis costs it two seconds, not thirty.
    timeout = 5 if worker else 2
    transport: dict[str, Any] = {
        "visibility_timeout": 120,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "global_keyprefix": "fleet:celery:",
    }
    if not worker:  # kombu retries a refused connection for six seconds, whatever the publish says
        transport |= {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    return {
        "broker_transport_options": transport,
        "result_backend_transport_options": {"global_keyprefix": "fleet:celery:"},
        "visibility_timeout": 120,
        "redis_socket_timeout": timeout,
        "redis_socket_connect_timeout": timeout,
        "broker_channel_error_retry": True,  # without it a Redis failover ends every worker
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # a worker outlives its Redis
        "task_acks_late": True,  # an early ack loses the task at kill -9
        "task_publish_retry": worker,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,  # a reserved task was started twice, and revoke ignored
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_send_task_events": True,  # Flower's history
        "task_send_sent_event": True,
        "task_track_started": True,
        "task_create_missing_queues": False,  # a typo would make a queue that nobody reads
        "task_default_queue": SWEEPS,
        "task_queues": [sweeps_queue()],
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],  # pickle is code execution
        "result_expires": RESULT_EXPIRES_S,
        "result_extended": True,  # the result names task, arguments, worker and queue
        "worker_hijack_root_logger": False,
        "enable_utc": True,
        "timezone": "UTC",
    }
