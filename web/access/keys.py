"""This process's table of API keys: all that were ever made, as last heard.

Fed by the store's notifications and by a full read every few seconds; with the store away it keeps
what it knew. Who asks is found out here without any I/O.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from hmac import compare_digest
from math import inf
from time import monotonic

from shared.domain.key import Key, digest_of, split_token
from shared.errors import StoreUnavailable, Unauthorized
from shared.store import Store
from web.access.auth import WHAT_TO_SEND, Principal
from web.tables.following_store import FollowingStore

_REFRESH_S = 4.0  # should a notification be lost; with the read itself, within 5 s everywhere

log = logging.getLogger(__name__)


class KeysState(Enum):
    """What is known of the fleet's keys."""

    UNKNOWN = "unknown"  # never read: nobody is answered
    OPEN = "open"  # no key was ever made: programs on this machine are answered
    KEYED = "keyed"  # who shows a good key is answered


@dataclass(frozen=True, slots=True)
class _Known:
    """What a request is held against."""

    digest: bytes
    expires_at: float  # epoch seconds by the store's clock
    principal: Principal | None


# What an unknown id is compared with, so that it takes as long as a known one. No secret has it.
_NOBODY = _Known(secrets.token_bytes(32), -inf, None)


class KeyTable:
    """Knows whose key is whose. Reads are lock-free: one dict is replaced by another."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._state = KeysState.UNKNOWN
        self._known: Mapping[str, _Known] = {}
        self._clock_ahead = 0.0  # of the store's clock, before ours, which nobody sets
        self._told_lost = False
        self._following = FollowingStore("API keys", self, store.key_changes, refresh_s=_REFRESH_S)

    def start(self) -> None:
        """Begin to follow the store, in a thread of its own.

        Blocks until keys were read once or could not be; then that is tried again and again.
        """
        self._following.start()
        self._following.wait_for_first_try(_REFRESH_S)

    def close(self) -> None:
        """Stop following, at the next notification or refresh."""
        self._following.close()

    @property
    def state(self) -> KeysState:
        """What is known of the fleet's keys."""
        return self._state

    @property
    def snapshot(self) -> object:
        """What the answers are based upon; another object whenever keys were read again."""
        return self._known

    def principal(self, token: bytes) -> Principal | None:
        """Return whose key `token` is; None if it is nobody's, has expired or was revoked.

        Takes any bytes of any length. Compares digests in constant time.
        """
        key_id, secret = split_token(token)
        known = self._known.get(key_id, _NOBODY)
        is_same = compare_digest(digest_of(secret), known.digest)
        if not is_same or monotonic() + self._clock_ahead >= known.expires_at:
            return None
        return known.principal

    def holds_for(self, principal: Principal) -> bool:
        """Return whether who was let in once would be let in now; for what goes on and on."""
        if principal.key_id is None:
            return self._state is KeysState.OPEN
        known = self._known.get(principal.key_id, _NOBODY)
        return monotonic() + self._clock_ahead < known.expires_at

    def caller(self, token: bytes | None) -> Principal:
        """Return whose key `token` is.

        Raises:
            StoreUnavailable: keys have never been read.
            Unauthorized: there is no token, or it opens nothing (any more).
        """
        if self._state is KeysState.UNKNOWN:
            raise StoreUnavailable("API keys have not been read yet: Redis does not answer")
        if token is None:
            raise Unauthorized(f"no API key: {WHAT_TO_SEND}")
        principal = self.principal(token)
        if principal is None:
            raise Unauthorized(f"this API key is unknown, expired or revoked: {WHAT_TO_SEND}")
        return principal

    def hear(self, changed: Collection[str]) -> None:
        """Read all keys again, because one was made or changed."""
        del changed  # keys are few, and changed once in a long while
        self.refresh()

    def lose(self) -> str:
        """Hear that the store does not answer; return what goes on meanwhile."""
        return _MEANWHILE[self._state]

    def refresh(self) -> None:
        """Read all keys again.

        Raises:
            StoreUnavailable: nothing is forgotten.
        """
        keys, now = self._store.api_keys(), self._store.now()
        if not keys and self._state is KeysState.KEYED:
            # Keys are never removed: Redis has lost its data. To fall back to `open` would let in
            # whoever made it lose them, to forget all would lock everybody out.
            if not self._told_lost:
                log.warning("the store has lost all API keys; those known go on working here")
            self._told_lost = True
            return
        self._told_lost = False
        self._clock_ahead = now - monotonic()
        self._known = {key.key_id: _known(key) for key in keys if key.revoked_at is None}
        state = KeysState.KEYED if keys else KeysState.OPEN
        if state is not self._state:
            log.info("API keys: %s", _SAID[state])
        self._state = state


_MEANWHILE = {
    KeysState.UNKNOWN: "nobody is answered until API keys have been read",
    KeysState.OPEN: "programs on this machine go on being answered",
    KeysState.KEYED: "the API keys known so far go on working",
}
_SAID = {
    KeysState.OPEN: "none was ever made, so only programs on this machine are answered",
    KeysState.KEYED: "in use, so every request needs one",
}


def _known(key: Key) -> _Known:
    return _Known(
        digest=bytes.fromhex(key.digest),
        expires_at=inf if key.expires_at is None else key.expires_at,
        principal=Principal(name=key.name, key_id=key.key_id, scope=key.scope, models=key.models),
    )
