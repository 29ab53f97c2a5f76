"""API keys, in this process's memory."""

from __future__ import annotations

import queue
from collections.abc import Callable, Generator
from dataclasses import replace

from shared.domain.key import Key, KeyState
from shared.store import not_rotatable
from shared.store.memory_part import MemoryPart, heard


class MemoryApiKeys(MemoryPart):
    """Keeps what the `Store` promises of API keys."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._api_keys: dict[str, Key] = {}
        self._key_listeners: list[queue.SimpleQueue[str]] = []

    def api_keys(self) -> list[Key]:
        """Return all keys that were ever made, oldest first."""
        with self._lock:
            return sorted(self._api_keys.values(), key=lambda key: (key.created_at, key.key_id))

    def add_key(self, key: Key) -> bool:
        """Record a new key; return False if there is one of that id."""
        with self._lock:
            if key.key_id in self._api_keys:
                return False
            self._keep_key(replace(key, created_at=self._clock(), revoked_at=None, successor=""))
            return True

    def revoke_key(self, key_id: str) -> Key | None:
        """Revoke a key; return it, or None if there is none."""
        with self._lock:
            key = self._api_keys.get(key_id)
            if key and key.revoked_at is None:
                self._keep_key(replace(key, revoked_at=self._clock()))
            return self._api_keys.get(key_id)

    def rotate_key(self, key_id: str, successor: Key, overlap_s: float) -> Key | None:
        """Record `successor` and have the old key expire, in one step."""
        with self._lock:
            key, now = self._api_keys.get(key_id), self._clock()
            if key is None:
                return None
            rotatable = key.state(now) is KeyState.ACTIVE and not key.successor
            if not rotatable or not self.add_key(successor):
                raise not_rotatable(key, now)
            ends = now + overlap_s
            expires_at = ends if key.expires_at is None else min(key.expires_at, ends)
            self._keep_key(replace(key, expires_at=expires_at, successor=successor.key_id))
            return self._api_keys[key_id]

    def key_changes(self, timeout_s: float) -> Generator[frozenset[str]]:
        """Yield the ids of keys that were made or changed, from now on."""
        return heard(self._key_listeners, timeout_s)

    def _keep_key(self, key: Key) -> None:
        self._api_keys[key.key_id] = key
        for listener in self._key_listeners:
            listener.put(key.key_id)
