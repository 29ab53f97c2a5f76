"""A node's supervisor where the store or one of its engines' folders fails it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.domain.instance import Status
from shared.errors import StoreUnavailable
from shared.store.history import LogLine
from shared.store.memory import MemoryStore
from tests.builders import an_instance, settings
from workers.heartbeat import Heartbeat
from workers.run_directory import RunDirectory
from workers.supervisor import BUSY_PASS_S, Supervisor

SAID = "RuntimeError: CUDA out of memory"


class Store(MemoryStore):
    """One that does not answer when asked for a log the first time."""

    asked = 0

    def log(self, instance_id: str, run: int, tail: int) -> list[LogLine]:
        self.asked += 1
        if self.asked == 1:
            raise StoreUnavailable("Redis does not answer")
        return super().log(instance_id, run, tail)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def supervisor(tmp_path: Path, store: Store) -> Iterator[Supervisor]:
    own = settings(NODE_NAME="one", RUN_DIR=str(tmp_path))
    supervisor = Supervisor(own, store, (), lambda: None)
    supervisor.announce()
    yield supervisor
    supervisor.close()


def test_what_an_engine_said_before_is_asked_for_until_the_store_tells(
    supervisor: Supervisor, store: Store
) -> None:
    record = an_instance(status=Status.RUNNING, run=1)
    store.create(record, 1)
    store.append_log(record.instance_id, 1, [SAID])
    with pytest.raises(StoreUnavailable):
        supervisor.look()
    supervisor.look()
    crashed = store.get(record.instance_id)
    assert crashed
    assert (crashed.status, crashed.last_log) == (Status.BACKOFF, (SAID,))


def test_an_engine_that_cannot_be_told_to_end_does_not_keep_the_others(
    supervisor: Supervisor, store: Store, tmp_path: Path
) -> None:
    store.asked = 1
    for name in ("tiny-aaaaaaaa", "tiny-bbbbbbbb"):
        waits = {"status": Status.BACKOFF, "retry_at": store.now() + 100.0}
        store.create(an_instance(instance_id=name, **waits), 2)
    supervisor.look()
    bad, good = (RunDirectory(tmp_path / "engines" / f"tiny-{x * 8}") for x in "ab")
    bad.write("launch", {"run": "no number"})
    supervisor.stop_all("the worker was stopped")
    assert good.read("stop")


def test_a_node_that_is_leaving_has_nothing_to_look_at_once_all_is_recorded(
    supervisor: Supervisor, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.asked = 1
    store.create(an_instance(status=Status.FAILED), 1)
    supervisor.look()
    monkeypatch.setattr(Heartbeat, "due_in_s", 0.0)  # its next beat was due while it left
    supervisor.stop_all("the worker was stopped")
    assert supervisor.look() > BUSY_PASS_S
