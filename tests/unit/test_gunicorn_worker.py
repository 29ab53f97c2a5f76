"""How a web process under the threaded worker class begins to end."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from shared.errors import TooManyFollowers
from shared.store.memory import MemoryStore
from web.access.keys import KeyTable
from web.control.following import Followers
from web.serving.gunicorn_worker import JsonErrorWorker


def a_worker(application: object | None) -> Any:
    """Return a worker that serves, but for its sockets and threads."""
    worker: Any = JsonErrorWorker.__new__(JsonErrorWorker)
    worker.alive = True
    worker.method_queue = SimpleNamespace(defer=lambda _: None)
    if application is not None:
        worker.wsgi = application
    return worker


def test_who_follows_is_sent_away_when_it_is_told_to_end() -> None:
    followers = Followers(1, KeyTable(MemoryStore()))
    parts = SimpleNamespace(followers=followers)
    worker = a_worker(SimpleNamespace(extensions={"relay": parts}))
    worker.handle_exit(signal.SIGTERM, None)
    assert not worker.alive
    with pytest.raises(TooManyFollowers, match="this web process stops"):
        followers.response(SimpleNamespace(), "text/plain")


@pytest.mark.parametrize("application", [None, lambda _environ, _start: []])
def test_it_ends_without_an_application_of_ours(application: object | None) -> None:
    worker = a_worker(application)
    worker.handle_exit(signal.SIGTERM, None)
    assert not worker.alive
