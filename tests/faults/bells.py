"""Doorbells by hand: rung twice, lost, delivered again; and how long one takes to be answered."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from shared import queue
from shared.settings import Settings
from tests.faults.ground import Ground
from tests.faults.timing import seconds_until

_QUEUE = "fleet:celery:node."
_RESULT = "fleet:celery:celery-task-meta-"


def ring(ground: Ground, task: str, instance_id: str, *, node: str = "one") -> str:
    """Send one task as the web tier does; return its id."""
    app = queue.celery_app(Settings.from_env({"REDIS_URL": ground.redis.url}), keep_results=False)
    task_id = str(uuid4())
    with app.connection_for_write() as connection:
        app.send_task(
            task,
            args=[instance_id],
            queue=queue.node_queue(node),  # type: ignore[arg-type] # Celery takes both
            task_id=task_id,
            connection=connection,
            retry=False,
        )
    return task_id


def answered_s(ground: Ground, within_s: float, *, since: float | None = None) -> float:
    """Ring the node for nothing; return how long it took until a task was done."""
    task_id = ring(ground, queue.START_INSTANCE, "nothing")
    return seconds_until(
        lambda: ground.redis.do("EXISTS", f"{_RESULT}{task_id}"),
        within_s,
        what="a task is done",
        since=since,
    )


def waiting(ground: Ground, node: str = "one") -> list[Any]:
    """Return the messages that lie in the queue of a node."""
    return [json.loads(text) for text in ground.redis.do("LRANGE", f"{_QUEUE}{node}", "0", "-1")]


def lose(ground: Ground, node: str = "one") -> None:
    """Throw away what lies in the queue of a node."""
    ground.redis.do("DEL", f"{_QUEUE}{node}")


def deliver_again(ground: Ground, message: Any, node: str = "one") -> None:
    """Put a message back as kombu does when its visibility timeout is over."""
    again = {
        **message,
        "headers": {**message["headers"], "redelivered": True},
        "properties": {
            **message["properties"],
            "delivery_info": {**message["properties"]["delivery_info"], "redelivered": True},
            "delivery_tag": str(uuid4()),
        },
    }
    ground.redis.do("LPUSH", f"{_QUEUE}{node}", json.dumps(again))
