"""Our doorbells are what Celery's own `send_task` would have written, but for ids and times."""

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from shared.queue import celery_app, node_queue
from shared.store.redis import connect
from shared.task_message import TaskMessages
from tests.builders import settings
from tests.redis_server import running_redis

TASK, NODE = "fleet.start_instance", "one"
QUEUE = f"node.{NODE}"
ONCE = {"id", "root_id", "correlation_id", "delivery_tag", "reply_to", "uuid"}  # of each message
TIMES = {"expires", "timestamp"}


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with running_redis(tmp_path) as url:
        yield url


@pytest.fixture
def app(url: str) -> Iterator[Celery]:
    with celery_app(settings(REDIS_URL=url), keep_results=False) as app:
        yield app


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with closing(connect(url)) as client:
        yield client


def test_a_message_is_what_celery_writes(app: Celery, client: Any) -> None:
    with closing(client.pubsub()) as listening:
        listening.psubscribe("*")
        assert listening.get_message(timeout=5)
        app.send_task(TASK, args=["i1"], queue=node_queue(NODE), expires=300)  # type: ignore[arg-type]
        celerys = written(client, listening)
        TaskMessages(app, client).send(TASK, ["i1"], queue=QUEUE, expires_s=300)
        ours = written(client, listening)
    assert [without(one, ONCE | TIMES | {"clock"}) for one in ours] == [
        without(one, ONCE | TIMES | {"clock"}) for one in celerys
    ]
    ids = [{name: said(one, name) for name in ("id", "root_id", "uuid")} for one in ours]
    assert len({found for one in ids for found in one.values() if found}) == 1
    assert all(isinstance(said(ours[0], name), str) for name in ("expires", "delivery_tag"))
    assert said(ours[1], "clock") > said(celerys[1], "clock")


def test_a_server_that_is_away_is_said_to_be(app: Celery, tmp_path: Path) -> None:
    with closing(connect(f"unix://{tmp_path}/none.sock")) as away:
        messages = TaskMessages(app, away)
        with pytest.raises(redis.RedisError):
            messages.send(TASK, ["i1"], queue=QUEUE, expires_s=300)


def written(client: Any, listening: Any) -> list[Any]:
    """Return the one message in the queue, and the one event, with the channel it came by."""
    event = listening.get_message(timeout=5)
    (message,) = client.lrange(f"fleet:celery:{QUEUE}", 0, -1)
    client.delete(f"fleet:celery:{QUEUE}")
    return [opened(message), {"channel": event["channel"], **opened(event["data"])}]


def opened(text: str) -> Any:
    message = json.loads(text)
    return {**message, "body": json.loads(base64.b64decode(message["body"]))}


def without(value: Any, names: set[str]) -> Any:
    """Return the value with only the kind of what is of each message its own."""
    if isinstance(value, dict):
        return {
            name: type(inner).__name__ if name in names else without(inner, names)
            for name, inner in value.items()
        }
    return value


def said(value: Any, name: str) -> Any:
    """Return what stands under a name, wherever that is in it."""
    if not isinstance(value, dict):
        return None
    if name in value:
        return value[name]
    return next((found for inner in value.values() if (found := said(inner, name))), None)
