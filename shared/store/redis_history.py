"""The past, on Redis: events and logs are streams, so that a reader can go on where it was."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import sha256

import redis

from shared.domain.eta import STARTS_KEPT, PastStart
from shared.store import KEEP_ENDED_S, history_scripts
from shared.store.history import (
    KEEP_STARTS_S,
    LOG_BYTES,
    LOG_LINES,
    LONGEST_WAIT_S,
    Created,
    Event,
    LogLine,
)
from shared.store.keys import Keys
from shared.store.redis_client import RedisPart, answering

_LINES_AT_ONCE = 500  # in one script: Redis answers nobody else meanwhile, for some milliseconds
_ENTRIES_AT_ONCE = 500  # given to one reader, who then asks for more

Entry = tuple[str, dict[str, str]]


class RedisHistory(RedisPart):
    """Keeps the `History` promise."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        super().__init__(client, keys)
        self._note = self._script(history_scripts.NOTE)
        self._append_log = self._script(history_scripts.APPEND_LOG)

    @answering
    def events(self, instance_id: str) -> list[Event]:
        """Return the changes of an instance, oldest first."""
        return [_event(*entry) for entry in self._redis.xrange(self._keys.events(instance_id))]

    @answering
    def events_after(self, instance_id: str, after: str, *, wait_s: float) -> list[Event]:
        """Return the changes behind the event `after`; wait for one if there is none yet."""
        found = self._behind(self._keys.events(instance_id), after, wait_s)
        return [_event(*entry) for entry in found]

    @answering
    def note(self, instance_id: str, *, by: str, who: str, reason: str) -> bool:
        """Append an event that changes nothing; return False if there is no such record."""
        return bool(self._note(instance_id, by, who, reason))

    @answering
    def append_log(self, instance_id: str, run: int, lines: Collection[str]) -> None:
        """Add lines to the kept log of a run of an instance."""
        for some in _batches(_newest(lines)):
            self._append_log(instance_id, run, LOG_LINES, LOG_BYTES, KEEP_ENDED_S, *some)

    @answering
    def log(self, instance_id: str, run: int, tail: int) -> list[LogLine]:
        """Return the last `tail` kept log lines of a run, oldest first."""
        if tail == 0:
            return []
        newest_first = self._redis.xrevrange(self._keys.log(instance_id, run), count=tail)
        return [_line(*entry) for entry in reversed(newest_first)]

    @answering
    def log_after(self, instance_id: str, run: int, after: str, *, wait_s: float) -> list[LogLine]:
        """Return a run's lines behind the line `after`; wait for one if there is none yet."""
        found = self._behind(self._keys.log(instance_id, run), after, wait_s)
        return [_line(*entry) for entry in found]

    @answering
    def created_once(self, name: str) -> Created | None:
        """Return what was created under `Once.name` in the last day; None if nothing was."""
        held = self._redis.hgetall(self._keys.once(digest(name)))
        if not held or not self._redis.exists(self._keys.instance(held["instance_id"])):
            return None
        return Created(**held)

    @answering
    def record_start(self, kind: str, seconds: float, stages: Mapping[str, float]) -> None:
        """Remember what a start that became ready took."""
        key = self._keys.starts(kind)
        pipe = self._redis.pipeline(transaction=True)
        pipe.lpush(key, json.dumps({"seconds": seconds, "stages": dict(stages)}))
        pipe.ltrim(key, 0, STARTS_KEPT - 1)
        pipe.expire(key, KEEP_STARTS_S)
        pipe.execute()

    @answering
    def past_starts(self, kind: str) -> list[PastStart]:
        """Return what earlier starts of a kind took, newest first."""
        kept = self._redis.lrange(self._keys.starts(kind), 0, -1)
        found = [json.loads(text) for text in kept]
        return [PastStart(seconds=one["seconds"], stages=one["stages"]) for one in found]

    def _behind(self, key: str, after: str, wait_s: float) -> list[Entry]:
        # BLOCK 0 would wait for ever.
        waits_ms = max(1, round(min(wait_s, LONGEST_WAIT_S) * 1000)) if wait_s > 0 else None
        found = self._redis.xread({key: after or "0"}, count=_ENTRIES_AT_ONCE, block=waits_ms)
        return found[0][1] if found else []


def digest(name: str) -> str:
    """Return what stands in a key's name for a text of any length with any characters."""
    return sha256(name.encode()).hexdigest()


def _newest(lines: Collection[str]) -> Sequence[str]:
    """Return those of the lines that would be kept."""
    newest = list(lines)[-LOG_LINES:]
    left = LOG_BYTES
    for index in range(len(newest) - 1, -1, -1):
        left -= len(newest[index].encode())
        if left < 0:
            return newest[index + 1 :]
    return newest


def _batches(lines: Sequence[str]) -> Iterator[Sequence[str]]:
    for begin in range(0, len(lines), _LINES_AT_ONCE):
        yield lines[begin : begin + _LINES_AT_ONCE]


def _event(entry_id: str, entry: dict[str, str]) -> Event:
    return Event(
        id=entry_id,
        at=float(entry["at"]),
        by=entry["by"],
        who=entry.get("who", ""),
        status=entry["status"],
        reason=entry["reason"],
        run=int(entry.get("run", 0)),
        cause=entry.get("cause", ""),
    )


def _line(entry_id: str, entry: dict[str, str]) -> LogLine:
    return LogLine(id=entry_id, text=entry["line"])
