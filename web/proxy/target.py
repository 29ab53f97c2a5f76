"""The request target of a proxied request: the string that is checked is the string that is sent.

Clients and servers collapse `..`, `//` and encoded slashes differently (measured for four HTTP
clients), so a target that could mean two things is refused before anything looks at it.
"""

from __future__ import annotations

import re

from shared.errors import InvalidRequest

_UNSAFE = re.compile(r"[^!-~]|[\\;]|%(?![0-9A-Fa-f]{2})|%(?:00|25|2[fF]|3[bB]|5[cC])")
_DOT_SEGMENT = re.compile(r"/(?:\.|%2[eE]){1,2}(?=/|$)")
_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


def engine_target(raw: str, prefix: str) -> str:
    """Return the target to send to the engine: what follows `prefix` in the raw request target.

    Args:
        raw: the request target as it stood in the request line, query included.
        prefix: `/proxy/INSTANCE_ID`.

    Raises:
        InvalidRequest: the path is not plain; says what in it.
    """
    origin_form = _ABSOLUTE.sub("", raw, count=1) if not raw.startswith("/") else raw
    if not origin_form.startswith(prefix):
        raise InvalidRequest(f"path: must begin with {prefix} as it stands", field="path")
    target = origin_form.removeprefix(prefix) or "/"
    if target.startswith("?"):
        target = f"/{target}"
    path, _, query = target.partition("?")
    if not path.startswith("/"):
        raise InvalidRequest(f"path: must begin with {prefix}/", field="path")
    if found := _UNSAFE.search(path):
        raise _refusal(f"holds {found.group()!r}")
    if "//" in path:
        raise _refusal("holds an empty segment '//'")
    if _DOT_SEGMENT.search(path):
        raise _refusal("holds a segment '.' or '..'")
    if "#" in target or re.search(r"[^!-~]", query):
        raise _refusal("holds a fragment, a space or a control character")
    return target


def _refusal(what: str) -> InvalidRequest:
    return InvalidRequest(
        f"path: {what}, which clients and servers read differently; send a plain path",
        field="path",
    )
