"""API keys, on Redis."""

from __future__ import annotations

from collections.abc import Collection, Generator

import redis

from shared.domain.key import Key
from shared.store import key_scripts, not_rotatable
from shared.store.codec import decode_key, encode_key
from shared.store.keys import Keys
from shared.store.redis_client import RedisPart, answering, flat


class RedisApiKeys(RedisPart):
    """Keeps what the `Store` promises of API keys."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        super().__init__(client, keys)
        self._add_key = self._script(key_scripts.ADD_KEY)
        self._revoke_key = self._script(key_scripts.REVOKE_KEY)
        self._rotate_key = self._script(key_scripts.ROTATE_KEY)

    @answering
    def api_keys(self) -> list[Key]:
        """Return all keys that were ever made, oldest first."""
        found = self._read_keys(self._redis.smembers(self._keys.api_keys))
        return sorted(found, key=lambda key: (key.created_at, key.key_id))

    @answering
    def add_key(self, key: Key) -> bool:
        """Record a new key; return False if there is one of that id."""
        return bool(self._add_key(key.key_id, *flat(encode_key(key))))

    @answering
    def revoke_key(self, key_id: str) -> Key | None:
        """Revoke a key; return it, or None if there is none."""
        self._revoke_key(key_id)
        return self._key(key_id)

    @answering
    def rotate_key(self, key_id: str, successor: Key, overlap_s: float) -> Key | None:
        """Record `successor` and have the old key expire, in one step."""
        fields = flat(encode_key(successor))
        rotated = self._rotate_key(key_id, overlap_s, successor.key_id, *fields)
        key = self._key(key_id)
        if key and not rotated:
            raise not_rotatable(key, self._now())
        return key

    def key_changes(self, timeout_s: float) -> Generator[frozenset[str]]:
        """Yield the ids of keys that were made or changed, from now on."""
        return self._listen(self._keys.key_changes, timeout_s)

    def _key(self, key_id: str) -> Key | None:
        stored = self._redis.hgetall(self._keys.api_key(key_id))
        return decode_key(key_id, stored) if stored else None

    def _read_keys(self, key_ids: Collection[str]) -> list[Key]:
        pipe = self._redis.pipeline(transaction=False)
        for key_id in key_ids:
            pipe.hgetall(self._keys.api_key(key_id))
        pairs = zip(key_ids, pipe.execute(), strict=True)
        return [decode_key(key_id, stored) for key_id, stored in pairs]
