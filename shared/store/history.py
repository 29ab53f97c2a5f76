"""What the store keeps of the past: events, log lines, which creations were asked for by a key."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from shared.domain.eta import PastStart

EVENTS = 1_000  # per instance, newest kept
EVENT_REASON_BYTES = 1_024  # longer reasons are cut, in events only
LOG_LINES = 5_000  # per run, newest kept
LOG_BYTES = 2**20  # per run, newest kept; an instance has two runs at most
RUNS_KEPT = 2  # the current one, and the one before: that is where a crash is explained
KEEP_ONCE_S = 86_400  # an idempotency key: a day from the creation
KEEP_STARTS_S = 30 * 86_400  # what starts of one kind took, after the last of them
REPLICA = "replica"
"""Fingerprint of a creation for a model of the catalogue: it is made again once the one that was
made has failed or is to stop, whatever it was asked for."""
LONGEST_WAIT_S = 1.0  # of one call that waits for news: well below the client's socket timeout


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change of one instance."""

    id: str  # its place among the events of the instance: what `events_after` begins behind
    at: float
    by: str  # what kind of who: worker, user, idle
    who: str  # user: API key's name and id, `local`, `requests`; worker: node; idle: beat or a node
    status: str  # what it became: a status, or `desired=stopped`; a note has the one that stays
    reason: str
    run: int  # of the engine, at that time
    cause: str = ""  # short code, where an engine ended or would not end


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line that an engine wrote."""

    id: str  # its place in the log of its run: what `log_after` begins behind
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """A creation that is to happen once, however often it is asked for."""

    name: str  # of the caller and their idempotency key together; any text
    fingerprint: str  # of what was asked for; REPLICA: again, once what was made is no use any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """What came of a `Once`."""

    instance_id: str
    fingerprint: str


class History(Protocol):
    """Keeps what happened: the part of the `Store` promise that is about the past.

    Positions are opaque: an `id` that was given, or '' for the beginning. A method that waits does
    so for at most LONGEST_WAIT_S, whatever it is asked.
    """

    def events(self, instance_id: str) -> list[Event]:
        """Return the changes of an instance, oldest first."""

    def events_after(self, instance_id: str, after: str, *, wait_s: float) -> list[Event]:
        """Return the changes behind the event `after`; wait for one if there is none yet."""

    def note(self, instance_id: str, *, by: str, who: str, reason: str) -> bool:
        """Append an event that changes nothing; return False if there is no such record."""

    def append_log(self, instance_id: str, run: int, lines: Collection[str]) -> None:
        """Add lines to the kept log of a run of an instance.

        The newest are kept, up to LOG_LINES and LOG_BYTES; those of a run older than the last
        RUNS_KEPT are not.
        """

    def log(self, instance_id: str, run: int, tail: int) -> list[LogLine]:
        """Return the last `tail` kept log lines of a run, oldest first."""

    def log_after(self, instance_id: str, run: int, after: str, *, wait_s: float) -> list[LogLine]:
        """Return a run's lines behind the line `after`; wait for one if there is none yet."""

    def created_once(self, name: str) -> Created | None:
        """Return what was created under `Once.name` in the last day; None if nothing was."""

    def record_start(self, kind: str, seconds: float, stages: Mapping[str, float]) -> None:
        """Remember what a start that became ready took; the newest STARTS_KEPT of a kind are kept.

        Args:
            kind: as `domain.eta.kind_of_start` names it.
            seconds: from its spawn to ready.
            stages: load stage → seconds after the spawn at which it began.
        """

    def past_starts(self, kind: str) -> list[PastStart]:
        """Return what earlier starts of a kind took, newest first."""
