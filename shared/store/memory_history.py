"""The past, in this process's memory."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from shared.domain.eta import STARTS_KEPT, PastStart
from shared.domain.instance import Instance, Status
from shared.store.history import (
    EVENT_REASON_BYTES,
    EVENTS,
    KEEP_ONCE_S,
    LOG_BYTES,
    LOG_LINES,
    LONGEST_WAIT_S,
    REPLICA,
    RUNS_KEPT,
    Created,
    Event,
    LogLine,
    Once,
)
from shared.store.memory_part import MemoryPart

_EXPLAINED = frozenset({Status.BACKOFF, Status.FAILED, Status.UNHEALTHY, Status.STOP_FAILED})

Entry = TypeVar("Entry", Event, LogLine)


class MemoryHistory(MemoryPart):
    """Keeps the `History` promise for the threads of one process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._written = threading.Condition(self._lock)  # an event or a log line
        self._instances: dict[str, Instance] = {}
        self._entries = 0  # ever made, for their ids
        self._events: dict[str, deque[Event]] = defaultdict(lambda: deque(maxlen=EVENTS))
        self._logs: dict[tuple[str, int], deque[LogLine]] = defaultdict(
            lambda: deque(maxlen=LOG_LINES)
        )
        self._starts: dict[str, deque[PastStart]] = defaultdict(lambda: deque(maxlen=STARTS_KEPT))
        self._once: dict[str, tuple[Created, float]] = {}

    def events(self, instance_id: str) -> list[Event]:
        """Return the changes of an instance, oldest first."""
        with self._lock:
            return list(self._events.get(instance_id, ()))

    def events_after(self, instance_id: str, after: str, *, wait_s: float) -> list[Event]:
        """Return the changes behind the event `after`; wait for one if there is none yet."""
        return self._behind(lambda: self._events.get(instance_id, ()), after, wait_s)

    def note(self, instance_id: str, *, by: str, who: str, reason: str) -> bool:
        """Append an event that changes nothing; return False if there is no such record."""
        with self._lock:
            record = self._instances.get(instance_id)
            if record is None:
                return False
            self._event(instance_id, by, who, record.status, reason)
            return True

    def append_log(self, instance_id: str, run: int, lines: Collection[str]) -> None:
        """Add lines to the kept log of a run of an instance."""
        with self._lock:
            record = self._instances.get(instance_id)
            if record and run <= record.run - RUNS_KEPT:
                return
            log = self._logs[instance_id, run]
            log.extend(LogLine(id=self._next_id(), text=line) for line in lines)
            kept = sum(len(line.text.encode()) for line in log)
            while kept > LOG_BYTES:
                kept -= len(log.popleft().text.encode())
            self._written.notify_all()

    def log(self, instance_id: str, run: int, tail: int) -> list[LogLine]:
        """Return the last `tail` kept log lines of a run, oldest first."""
        with self._lock:
            return list(self._logs.get((instance_id, run), ()))[-tail:] if tail else []

    def log_after(self, instance_id: str, run: int, after: str, *, wait_s: float) -> list[LogLine]:
        """Return a run's lines behind the line `after`; wait for one if there is none yet."""
        return self._behind(lambda: self._logs.get((instance_id, run), ()), after, wait_s)

    def created_once(self, name: str) -> Created | None:
        """Return what was created under `Once.name` in the last day; None if nothing was."""
        with self._lock:
            created, until = self._once.get(name, (None, 0.0))
            known = created and created.instance_id in self._instances and self._clock() < until
            return created if known else None

    def record_start(self, kind: str, seconds: float, stages: Mapping[str, float]) -> None:
        """Remember what a start that became ready took."""
        with self._lock:
            self._starts[kind].appendleft(PastStart(seconds=seconds, stages=dict(stages)))

    def past_starts(self, kind: str) -> list[PastStart]:
        """Return what earlier starts of a kind took, newest first."""
        with self._lock:
            return list(self._starts[kind])

    def _was_made(self, once: Once) -> bool:
        made = self.created_once(once.name)
        return made is not None and (
            once.fingerprint != REPLICA or self._instances[made.instance_id].counts
        )

    def _keep_once(self, once: Once, instance_id: str) -> None:
        created = Created(instance_id=instance_id, fingerprint=once.fingerprint)
        self._once[once.name] = created, self._clock() + KEEP_ONCE_S

    def _event(self, instance_id: str, by: str, who: str, status: str, reason: str) -> None:
        record = self._instances[instance_id]
        cause = record.cause if status in _EXPLAINED else ""
        whole = reason.encode()[:EVENT_REASON_BYTES].decode(errors="ignore")
        event = Event(
            id=self._next_id(),
            at=self._clock(),
            by=by,
            who=who,
            status=str(status),
            reason=whole,
            run=record.run,
            cause=cause,
        )
        self._events[instance_id].append(event)
        self._written.notify_all()
        self._publish(instance_id)

    def _publish(self, instance_id: str) -> None:
        raise NotImplementedError

    def _forget_run(self, instance_id: str, run: int) -> None:
        self._logs.pop((instance_id, run), None)

    def _forget_history(self, instance_id: str) -> None:
        self._events.pop(instance_id, None)
        for key in [key for key in self._logs if key[0] == instance_id]:
            del self._logs[key]

    def _behind(
        self, entries: Callable[[], Iterable[Entry]], after: str, wait_s: float
    ) -> list[Entry]:
        def found() -> list[Entry]:
            return [entry for entry in entries() if _place(entry.id) > _place(after)]

        with self._written:
            self._written.wait_for(found, timeout=min(wait_s, LONGEST_WAIT_S))
            return found()

    def _next_id(self) -> str:
        self._entries += 1
        return f"{self._entries}-0"


def _place(entry_id: str) -> int:
    return int((entry_id or "0-0").partition("-")[0])
