"""Answers about many records, on Redis."""

from __future__ import annotations

from contextlib import suppress
from math import isfinite

import redis

from shared.domain.instance import Instance
from shared.errors import RecordUnreadable
from shared.store.keys import Keys
from shared.store.listing import (
    MOST_EXAMINED,
    READ_AT_ONCE,
    Page,
    Query,
    Since,
    no_such_place,
)
from shared.store.listing_scripts import END_LEASE, LEASE, UNLIST
from shared.store.redis_client import answering
from shared.store.redis_records import RedisRecords, read_well

_LEAST_READ = 16  # records: where few of those that were read are wanted, more are read together
_AT_ONE_MOMENT = 8  # instances that may have been created in one microsecond: far more than can be

Place = tuple[float, str]  # created_at, instance id: lists are in the order of these


class RedisListing(RedisRecords):
    """Keeps the `Listing` promise."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        super().__init__(client, keys)
        self._lease = self._script(LEASE)
        self._end_lease = self._script(END_LEASE)
        self._unlist = self._script(UNLIST)

    @answering
    def instances_since(self, cursor: str) -> Since:
        """Return what has changed since `cursor` was given out; '' for all that are not ended."""
        now, changed = self._changed("instances", cursor)
        if changed is None:
            listed = self._redis.zrange(self._keys.instances, 0, -1)
            found = {record.instance_id: record for record in self._read_listed(listed)}
            return Since(cursor=now, whole=True, found=found)
        return Since(cursor=now, whole=False, found=self.several(changed))

    @answering
    def page(self, query: Query, *, after: str = "", limit: int = 100) -> Page:
        """Return the next `limit` instances of a list, oldest first."""
        place = self._place(after)
        indexes = self._smallest(query)
        found: list[Instance] = []
        looked_at = 0
        while len(found) <= limit:
            if looked_at >= MOST_EXAMINED:  # `place` may be of one that is not listed
                return Page(records=tuple(found), after=place[1])
            wanted = max(_LEAST_READ, limit + 1 - len(found))
            ids = self._behind_place(indexes, place, min(wanted, READ_AT_ONCE))
            if not ids:
                return Page(records=tuple(found), after="")
            found += [r for r in self._read_listed([name for _, name in ids]) if query.lists(r)]
            looked_at += len(ids)
            place = ids[-1]
        return Page(records=tuple(found[:limit]), after=found[limit - 1].instance_id)

    @answering
    def lease(self, name: str, holder: str, seconds: float) -> bool:
        """Take what is called `name`, or go on having it; return whether `holder` has it now."""
        return bool(self._lease(name, holder, max(1, round(seconds * 1000))))

    @answering
    def end_lease(self, name: str, holder: str) -> None:
        """Let go of `name` at once; nothing changes where another has it."""
        self._end_lease(name, holder)

    def _changed(self, kind: str, cursor: str) -> tuple[str, list[str] | None]:
        """Return a new cursor, and the ids that changed since `cursor`; None: it says nothing."""
        key = self._keys.changed(kind)
        pipe = self._redis.pipeline(transaction=True)
        pipe.get(self._keys.changed_from(kind))
        pipe.zrange(key, 0, 0, desc=True, withscores=True)
        pipe.zrangebyscore(key, f"({cursor}" if cursor else "+inf", "+inf")
        since, last, changed = pipe.execute()
        now = f"{last[0][1]:.0f}" if last else ""
        return now, changed if is_known(cursor, since, now) else None

    def _place(self, after: str) -> Place:
        if not after:
            return 0.0, ""
        created_at = self._redis.hget(self._keys.instance(after), "created_at")
        if created_at is None:
            raise no_such_place(after)
        with suppress(ValueError):
            if isfinite(float(created_at)):
                return float(created_at), after
        listed = self._redis.zscore(self._keys.instances, after)  # its record cannot be read
        return float(listed or 0.0), after

    def _smallest(self, query: Query) -> list[str]:
        """Return the indexes that have all that `query` lists, and of those the smallest ones."""
        listed = [self._keys.instances, *([self._keys.ended] if query.lists_ended else [])]
        return [self._smallest_of(query, all_of_them) for all_of_them in listed]

    def _smallest_of(self, query: Query, listed: str) -> str:
        by = (
            (query.node, self._keys.of_node),
            (query.model, self._keys.of_model),
            (query.status, self._keys.of_status),
        )
        indexes = [name(listed, value) for value, name in by if value is not None] or [listed]
        pipe = self._redis.pipeline(transaction=False)
        for index in indexes:
            pipe.zcard(index)
        return min(zip(pipe.execute(), indexes, strict=True))[1]

    def _behind_place(self, indexes: list[str], place: Place, most: int) -> list[Place]:
        """Return what follows `place` in all indexes together, in order."""
        pipe = self._redis.pipeline(transaction=False)
        for index in indexes:  # from its own score on: others may have been made in that moment
            pipe.zrangebyscore(
                index, repr(place[0]), "+inf", start=0, num=most + _AT_ONE_MOMENT, withscores=True
            )
        found = sorted((score, name) for listed in pipe.execute() for name, score in listed)
        return [one for one in found if one > place][:most]

    def _read_listed(self, instance_ids: list[str]) -> list[Instance]:
        """Read what an index lists, but for what cannot be read."""
        records = self._read(instance_ids)
        self._unlist_gone(instance_ids, records)
        return read_well(records)

    def _unlist_gone(
        self, instance_ids: list[str], records: list[Instance | RecordUnreadable | None]
    ) -> int:
        """Take what has no record any more out of all indexes; return how many those are."""
        pairs = zip(instance_ids, records, strict=True)
        gone = [instance_id for instance_id, record in pairs if record is None]
        for begin in range(0, len(gone), READ_AT_ONCE):
            self._unlist(*gone[begin : begin + READ_AT_ONCE])
        return len(gone)


def is_known(cursor: str, since: str | None, now: str) -> bool:
    """Return whether all is remembered that changed between `cursor` and `now`.

    Args:
        cursor: given out before; '' for none.
        since: the first moment of which changes are remembered; None or '': there were none.
        now: the last one; '': there were none.
    """
    return bool(cursor and since) and float(since or 0) <= float(cursor) <= float(now or 0)
