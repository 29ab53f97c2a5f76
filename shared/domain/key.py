"""API keys: what is kept of one, what it may use, and how it is written.

A key is `vfm_<id>_<secret>`: 8 characters that name it, and 32 random bytes as base64url. Only the
SHA-256 of the secret is kept; a slow hash would add nothing to 256 random bits.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import sha256

from shared.errors import InvalidRequest

_SECRET_BYTES = 32
_ID_CHARS = 8  # 40 bits tell keys apart; the secret is what protects
_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_TOKEN = re.compile(rb"vfm_([a-z2-7]{8})_([A-Za-z0-9_-]{43})")
_IN_TEXT = re.compile(r"(vfm_[a-z2-7]{8})_[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_GLOB = re.compile(r"[!-~]{1,256}")
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_LONGEST_S = 100 * 365 * 86_400.0  # a longer life is `never`, said by leaving it out
_REMEMBERED = 4_096  # pairs of a key's globs and an instance's names; a few hundred bytes each


class Scope(StrEnum):
    """What a key is for."""

    ADMIN = "admin"  # everything: the control API, all models, /metrics
    INFERENCE = "inference"  # inference paths of engines that serve its models


class KeyState(StrEnum):
    """Whether a key opens anything now."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What is kept of a key, for ever: one that was revoked still says that keys are in use."""

    key_id: str
    name: str  # whose it is; need not be unique
    scope: Scope
    digest: str = field(repr=False)  # hex SHA-256 of the secret
    models: tuple[str, ...] = ()  # globs; empty: all
    created_at: float = 0.0  # epoch seconds by the store's clock, like the others
    expires_at: float | None = None
    revoked_at: float | None = None
    successor: str = ""  # id of the key that it was rotated to

    def state(self, now: float) -> KeyState:
        """Return whether it opens anything at `now`."""
        if self.revoked_at is not None:
            return KeyState.REVOKED
        if self.expires_at is not None and now >= self.expires_at:
            return KeyState.EXPIRED
        return KeyState.ACTIVE


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A key as its owner gets it, once, and what is kept of it."""

    key_id: str
    token: str = field(repr=False)
    digest: str = field(repr=False)


def new_secret() -> NewSecret:
    """Return a new random key."""
    key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_CHARS))
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    digest = digest_of(secret.encode()).hex()
    return NewSecret(key_id=key_id, token=f"vfm_{key_id}_{secret}", digest=digest)


def digest_of(secret: bytes) -> bytes:
    """Return what is kept and compared instead of a secret."""
    return sha256(secret).digest()


def split_token(token: bytes) -> tuple[str, bytes]:
    """Return the id and the secret of a token, or '' and the whole token if it is no key's.

    Takes any bytes of any length; an id says nothing about whether there is such a key.
    """
    found = _TOKEN.fullmatch(token)
    return (found[1].decode(), found[2]) if found else ("", token)


def without_secrets(text: str) -> str:
    """Return `text` with no more than the ids of the keys in it."""
    return _IN_TEXT.sub(r"\1_[secret]", text)


@lru_cache(_REMEMBERED)
def covers(models: tuple[str, ...], names: tuple[str, ...]) -> bool:
    """Return whether one of the globs matches one of the names; no globs match everything."""
    return not models or any(fnmatchcase(name, glob) for glob in models for name in names)


def checked_name(name: str) -> str:
    """Return the name of a key as it is.

    Raises:
        InvalidRequest: a table or a log line could not show it plainly.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"name: {name!r} is not 1 to 63 letters, digits and ._@- that begin with a letter or "
            "digit",
            field="name",
        )
    return name


def checked_models(scope: Scope, globs: Collection[str]) -> tuple[str, ...]:
    """Return the globs of models that a key is for.

    Raises:
        InvalidRequest: one could match nothing, or the key is an admin's, who may use all.
    """
    if globs and scope is Scope.ADMIN:
        raise InvalidRequest(
            "model: an admin key is for all models; leave --model out or make it --scope inference",
            field="model",
        )
    for glob in globs:
        if not _GLOB.fullmatch(glob) or _is_unclosed(glob):
            raise InvalidRequest(
                f"model: {glob!r} is not a glob like meta-llama/* or Qwen/Qwen3-?B: no spaces, "
                "and each [ has its ]",
                field="model",
            )
    return tuple(dict.fromkeys(globs))


def seconds_of(text: str, *, field: str) -> float:
    """Return how long `text` is in seconds: 45s, 90m, 24h, 30d, 2w.

    Raises:
        InvalidRequest: it is no such duration.
    """
    found = _DURATION.fullmatch(text)
    seconds = float(found[1]) * _UNIT_S[found[2]] if found else -1.0
    if not 0 <= seconds <= _LONGEST_S:
        raise InvalidRequest(
            f"{field}: {text!r} is not a duration like 24h or 30d (s, m, h, d, w; at most 100 "
            "years)",
            field=field,
        )
    return seconds


def expiry_of(text: str, now: float) -> float:
    """Return when a key expires that is to live for a duration or up to a date, in epoch seconds.

    Args:
        text: 30d, or 2027-01-01, which is the beginning of that day in UTC.
        now: epoch seconds.

    Raises:
        InvalidRequest: it is neither, or not in the future.
    """
    try:
        at = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        if not _DURATION.fullmatch(text):
            raise InvalidRequest(
                f"expires: {text!r} is neither a duration like 30d nor a date like 2027-01-01",
                field="expires",
            ) from None
        at = now + seconds_of(text, field="expires")
    if at <= now:
        raise InvalidRequest(f"expires: {text!r} is not in the future", field="expires")
    return at


def _is_unclosed(glob: str) -> bool:
    """Return whether a [ of the glob has no ], which fnmatch would take for a plain character."""
    rest = glob
    while "[" in rest:
        # fnmatch: a ] that comes first in the brackets is one of its characters
        _, _, rest = rest.partition("[")
        inner = rest.removeprefix("!")
        end = inner.find("]", 1)
        if end < 0:
            return True
        rest = inner[end + 1 :]
    return False
