"""What Celery runs: doorbells and sweeps, each well under a second and safe to run twice."""

from __future__ import annotations

from celery import Celery

from shared import queue
from shared.placing import Placing, serve_line
from shared.store import Store
from workers.waker import Waker


def add_tasks(
    app: Celery,
    *,
    node: str,
    store: Store,
    doorbells: queue.Doorbells,
    waker: Waker,
    placing: Placing,
    idle_hold_s: float,
) -> None:
    """Register the tasks of the worker of `node`; `idle_hold_s` is for `Store.stop_idle`."""

    @app.task(name=queue.START_INSTANCE)
    def start_instance(instance_id: str) -> dict[str, str]:
        """Have the supervisor look: this instance is to run."""
        waker.ring()
        return {"node": node, "instance_id": instance_id}

    @app.task(name=queue.STOP_INSTANCE)
    def stop_instance(instance_id: str) -> dict[str, str]:
        """Have the supervisor look: this instance is to stop."""
        waker.ring()
        return {"node": node, "instance_id": instance_id}

    # Its results would be kept for a day, six in a minute, and say nothing that no event says.
    @app.task(name=queue.EXPIRE_IDLE, ignore_result=True)
    def expire_idle() -> list[str]:
        """Ask all idle instances of the fleet to stop; return their ids."""
        due = store.stop_idle(hold_s=idle_hold_s)
        for instance in due:
            doorbells.stop(instance)
        return [instance.instance_id for instance in due]

    @app.task(name=queue.PLACE_WAITING, ignore_result=True)
    def place_waiting() -> list[str]:
        """Give places to those of the line for whom there is room; return their ids."""
        return serve_line(store, doorbells, placing, who=node)
