"""This process's routing table: every instance that is not ended, as last heard.

Fed by the store's notifications and by a full read every few seconds; with the store away it keeps
what it knew. The request path reads it and touches no Redis.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic

from shared.domain.instance import BY_IDLE, Desired, Instance, Status
from shared.errors import InstanceNotReady, NotFound, StoreUnavailable
from shared.store import Store

_REFRESH_S = 5.0  # should a notification be lost
_PAUSE_S = 0.5  # between tries while the store is away
_LOADING_RETRY_S = 5

log = logging.getLogger(__name__)


class RoutingTable:
    """Knows which instance is where. Reads are lock-free: one dict is replaced by another."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._instances: dict[str, Instance] = {}
        self._changed = threading.Condition()
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin to follow the store, in a thread of its own."""
        threading.Thread(target=self._follow, name="routing", daemon=True).start()

    def close(self) -> None:
        """Stop following, at the next notification or refresh."""
        self._closed.set()

    def find(self, instance_id: str) -> Instance:
        """Return the instance; asks the store only about one that the table does not know.

        Raises:
            NotFound: there is no such instance.
            StoreUnavailable: the table does not know it, and the store cannot say.
        """
        known = self._instances.get(instance_id) or self._store.get(instance_id)
        if known is None:
            raise NotFound(f"no instance {instance_id}")
        return known

    def route(self, instance_id: str) -> Instance:
        """Return the instance if it takes requests now.

        Raises:
            NotFound: there is no such instance, or it has ended.
            InstanceNotReady: it loads, stops or has failed; says which.
            StoreUnavailable: as for `find`.
        """
        instance = self.find(instance_id)
        if not instance.serving:
            raise _refusal(instance)
        return instance

    def wait_for(
        self, instance_id: str, done: Callable[[Instance], bool], timeout_s: float
    ) -> Instance:
        """Return the instance once `done` says so, or as it is when the time is up.

        Raises:
            NotFound: there is no such instance.
            StoreUnavailable: as for `find`.
        """
        deadline = monotonic() + timeout_s
        while True:
            seen = self._instances.get(instance_id)
            instance = self.find(instance_id)
            left = deadline - monotonic()
            if done(instance) or left <= 0:
                return instance
            with self._changed:
                self._changed.wait_for(
                    lambda seen=seen: self._instances.get(instance_id) is not seen,  # type: ignore[misc]
                    timeout=min(left, _REFRESH_S),
                )

    def hear(self, instance_id: str) -> None:
        """Read one instance again, because it changed."""
        record = self._store.get(instance_id)
        instances = dict(self._instances)
        if record is None or record.ended:
            instances.pop(instance_id, None)
        else:
            instances[instance_id] = record
        self._replace(instances)

    def refresh(self) -> None:
        """Read all instances again."""
        self._replace({record.instance_id: record for record in self._store.instances()})

    def _replace(self, instances: dict[str, Instance]) -> None:
        with self._changed:
            self._instances = instances
            self._changed.notify_all()

    def _follow(self) -> None:
        told = False
        while not self._closed.is_set():
            try:
                refreshed_at = 0.0
                for changed in self._store.changes(_REFRESH_S):
                    told = False
                    if self._closed.is_set():
                        return
                    if changed is not None:
                        self.hear(changed)
                    if changed is None or monotonic() - refreshed_at > _REFRESH_S:
                        self.refresh()
                        refreshed_at = monotonic()
            except StoreUnavailable as error:
                if not told:
                    log.warning("%s; routing goes on with what is known", error)
                told = True
                self._closed.wait(_PAUSE_S)
            except Exception:  # a record that cannot be read must not end routing
                log.exception("routing table not refreshed; trying again")
                self._closed.wait(_PAUSE_S)


def _refusal(instance: Instance) -> NotFound | InstanceNotReady:
    name, status = instance.instance_id, instance.shown_status
    why = f": {instance.reason}" if instance.reason else ""
    if instance.ended:
        return NotFound(f"instance {name} is stopped{why}")
    if status in (Status.PENDING, Status.STARTING, Status.BACKOFF):
        return InstanceNotReady(
            f"instance {name} is {status}{_stage(instance)}", retry_after_s=_LOADING_RETRY_S
        )
    if instance.stop_by == BY_IDLE and instance.status is Status.RUNNING:
        # It goes on if a request turns out to run in it.
        return InstanceNotReady(f"instance {name} is about to stop as idle", retry_after_s=1)
    if instance.desired is Desired.STOPPED:
        return InstanceNotReady(f"instance {name} is {status}", retry_after_s=None)
    return InstanceNotReady(f"instance {name} is {status}{why}", retry_after_s=None)


def _stage(instance: Instance) -> str:
    if not instance.stage:
        return ""
    percent = "" if instance.progress is None else f" {instance.progress:.0%}"
    return f", stage {instance.stage}{percent}"
