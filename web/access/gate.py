"""Flask's gate: every request is checked before anything looks at it."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, g, request

from shared.errors import InvalidRequest, Unauthorized
from web.access.auth import LOCAL, Principal, check_local, needs_admin, own_names, presented_token
from web.access.keys import KeysState, KeyTable

ALIVE = "health.healthz"
"""The endpoint that answers anybody at any time: this process lives."""

READY = "health.readyz"
"""The endpoint that answers anybody once keys have been read, and admins with the details."""

ANY_KEY = frozenset({"proxy", "openai", "models"})
"""Endpoints that inference keys may ask, and which decide the rest. All others are for admins."""


def add_gate(app: Flask, keys: KeyTable, port: int) -> None:
    """Have every request checked, and `g.principal` set: who asks, None where nobody need say.

    Raises, for the request: Unauthorized, Forbidden, StoreUnavailable where keys were never read,
    InvalidRequest where two keys are shown.

    Args:
        app: of the web tier.
        keys: which keys there are.
        port: where the web tier listens; for the advice in refusals.
    """
    names = own_names()

    def who_asks() -> Principal:
        if keys.state is KeysState.OPEN:
            check_local(
                request.remote_addr, request.headers, names, port=port, scheme=request.scheme
            )
            return LOCAL
        authorization, api_key = map(request.headers.get, ("Authorization", "x-api-key"))
        return keys.caller(presented_token(_raw(authorization), _raw(api_key)))

    @app.before_request
    def check() -> None:
        g.principal = None
        if request.endpoint == ALIVE:
            return
        if request.endpoint == READY:
            g.principal = _or_nobody(who_asks)
            return
        g.principal = who_asks()
        # A path that is not there (no endpoint) is a 404 or 405 for whoever has a key.
        if request.endpoint is not None and request.endpoint not in ANY_KEY:
            needs_admin(g.principal)


def _or_nobody(who_asks: Callable[[], Principal]) -> Principal | None:
    try:
        return who_asks()
    except (Unauthorized, InvalidRequest):
        return None


def _raw(header: str | None) -> bytes | None:
    """Return a header as it came: WSGI hands bytes over as Latin-1."""
    return None if header is None else header.encode("latin-1", "replace")
