"""Records of instances as they are read, on Redis; some may be such as cannot be."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

import redis

from shared.domain.instance import Instance
from shared.errors import RecordUnreadable
from shared.store.codec import decode_instance
from shared.store.keys import Keys
from shared.store.listing import READ_AT_ONCE
from shared.store.redis_client import RedisPart, answering

log = logging.getLogger(__name__)


class RedisRecords(RedisPart):
    """Reads records; remembers which of them it could not read."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        super().__init__(client, keys)
        self._unreadable: dict[str, str] = {}  # what this process came across: id → why

    @answering
    def get(self, instance_id: str) -> Instance | None:
        """Return the record, or None if there is none (any more)."""
        return self._readable(instance_id, self._redis.hgetall(self._keys.instance(instance_id)))

    @answering
    def several(self, instance_ids: Collection[str]) -> dict[str, Instance | None]:
        """Return these records; None stands for those that there are not (any more)."""
        wanted = list(instance_ids)
        pairs = zip(wanted, self._read(wanted), strict=True)
        return {name: found for name, found in pairs if not isinstance(found, RecordUnreadable)}

    @answering
    def unreadable(self) -> list[RecordUnreadable]:
        """Return which records this process came across that cannot be read, if they still cannot.

        Each is logged once.
        """
        self._redis.ping()  # where there is nothing to read, too, it says whether it is there
        found = self._read(sorted(self._unreadable))
        return [record for record in found if isinstance(record, RecordUnreadable)]

    def _read(self, instance_ids: Iterable[str]) -> list[Instance | RecordUnreadable | None]:
        wanted = list(instance_ids)
        found: list[Instance | RecordUnreadable | None] = []
        for begin in range(0, len(wanted), READ_AT_ONCE):
            some = wanted[begin : begin + READ_AT_ONCE]
            pipe = self._redis.pipeline(transaction=False)
            for instance_id in some:
                pipe.hgetall(self._keys.instance(instance_id))
            pairs = zip(some, pipe.execute(), strict=True)
            found += [self._decoded(instance_id, stored) for instance_id, stored in pairs]
        return found

    def _readable(self, instance_id: str, stored: dict[str, str]) -> Instance | None:
        record = self._decoded(instance_id, stored)
        if isinstance(record, RecordUnreadable):
            raise record
        return record

    def _decoded(
        self, instance_id: str, stored: dict[str, str]
    ) -> Instance | RecordUnreadable | None:
        try:
            record = decode_instance(stored) if stored else None
        except ValueError as error:
            key = self._keys.instance(instance_id)
            unreadable = RecordUnreadable(instance_id, why=str(error), key=key)
            if self._unreadable.get(instance_id) != unreadable.why:
                log.error("%s", unreadable)  # noqa: TRY400 - says all there is
            self._unreadable[instance_id] = unreadable.why
            return unreadable
        self._unreadable.pop(instance_id, None)
        return record


def read_well(found: Iterable[Instance | RecordUnreadable | None]) -> list[Instance]:
    """Return those of the records that there are and that can be read."""
    return [record for record in found if isinstance(record, Instance)]
