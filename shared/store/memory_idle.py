"""What is in use and what is idle, in this process's memory."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from shared.domain.expiry import sweep
from shared.domain.instance import (
    BY_IDLE,
    RELEASED,
    WITHDRAWABLE,
    Desired,
    Instance,
    Status,
)
from shared.store.memory_line import MemoryLine


class MemoryIdle(MemoryLine):
    """Keeps what the `Store` promises of use and its absence."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._idle_held: dict[str, float] = {}
        self._swept_at: float | None = None

    def touch(self, under_way: Collection[str], *, ended: Collection[str] = ()) -> None:
        """Say which instances are in use now, or were since this was said last."""
        with self._lock:
            for instance_id in {*under_way, *ended}:
                record = self._instances.get(instance_id)
                if record is None or record.status in RELEASED:
                    continue
                drains = record.desired is Desired.STOPPED
                if drains and not record.about_to_stop_as_idle and instance_id in under_way:
                    self._instances[instance_id] = replace(record, last_active=self._clock())
                if record.status is not Status.RUNNING:
                    continue
                if record.desired is Desired.RUNNING:
                    touched = replace(record, last_active=self._clock())
                    self._instances[instance_id] = touched
                elif record.stop_by in WITHDRAWABLE:
                    self._instances[instance_id] = replace(
                        record,
                        desired=Desired.RUNNING,
                        stop_reason="",
                        stop_by="",
                        generation=record.generation + 1,
                        revision=record.revision + 1,
                        last_active=self._clock(),
                    )
                    self._event(instance_id, "user", "requests", "desired=running", "it is in use")

    def retime(self, instance_id: str, timeout: int, *, who: str) -> None:
        """Have an instance that is to run stop after so many idle seconds; 0: never."""
        with self._lock:
            record = self._instances.get(instance_id)
            if record is None or not record.counts or record.timeout == timeout:
                return
            self._instances[instance_id] = replace(
                record, timeout=timeout, revision=record.revision + 1
            )
            why = "the catalogue has changed"
            self._event(instance_id, "catalogue", who, f"timeout={timeout}", why)

    def stop_idle(self, *, node: str | None = None, hold_s: float = 0.0) -> list[Instance]:
        """Set `desired` to stopped for all that are due, of `node` or of all; return those."""
        who = node or "beat"
        with self._lock:
            now = self._clock()
            self._swept_at = now if node is None else self._swept_at
            due = sweep(list(self._instances.values()), self._idle_held, now, hold_s)
            self._idle_held = {n: at for n, at in self._idle_held.items() if n in due.held}
            for name, why in due.hold.items():
                if node in (None, self._instances[name].node):
                    self._idle_held[name] = now
                    self._event(name, BY_IDLE, who, Status.RUNNING, why)
            stopped = [name for name in due.stop if node in (None, self._instances[name].node)]
            for name in stopped:
                self._ask_to_stop(self._instances[name], due.stop[name], BY_IDLE, who)
            return [self._instances[name] for name in stopped if name not in self._damaged]

    def swept_ago_s(self) -> float | None:
        """Return how many seconds ago all of the fleet was swept by `stop_idle`; None if never."""
        with self._lock:
            return None if self._swept_at is None else max(0.0, self._clock() - self._swept_at)
