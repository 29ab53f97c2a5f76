"""Secrets, blotted out of what an engine says before anybody else sees it.

Engines know secrets: the hub's token, proxies' passwords, their own key. A library that prints its
environment or a URL would put them into a log that callers read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote, urlsplit

from shared.domain.engine_env import SECRET_NAME

BLOT = "[secret]"
_SHORTEST = 6  # characters; a shorter value is an ordinary word or number
_LOOKS_SECRET = re.compile(
    r"(?<=://)[^\s/@:\"']*:[^\s/@\"']+(?=@)"  # user and password of a URL
    r"|\bhf_[A-Za-z0-9]{20,}"
    r"|(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}"
)


def secrets_in(env: Mapping[str, str]) -> frozenset[str]:
    """Return the secrets in an engine's environment: by a variable's name, or in a URL."""
    found: set[str] = set()
    for name, value in env.items():
        if SECRET_NAME.search(name):
            found.add(value)
        if "@" in value and (password := _password(value)):
            found |= {password, unquote(password)}
    return frozenset(secret for secret in found if len(secret) >= _SHORTEST)


def blotted(text: str, secrets: Iterable[str]) -> str:
    """Return `text` without these secrets, and without what looks like one."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may be the beginning of another
        text = text.replace(secret, BLOT)
    return _LOOKS_SECRET.sub(BLOT, text)


def _password(url: str) -> str | None:
    try:
        return urlsplit(url if "://" in url else f"//{url}").password
    except ValueError:
        return None
