"""X-Request-Id: one name for a request, in the caller's log, in ours and in the engine's."""

from __future__ import annotations

import logging
import re
from random import getrandbits

from flask import Flask, Response, g, has_app_context, request

HEADER = "X-Request-Id"
_TAKEN = re.compile(rb"(?!vfm_)[A-Za-z0-9._-]{1,128}")  # safe in a header, a log line and a shell


def request_id(given: bytes | None) -> bytes:
    """Return the id of a request: the caller's own if it is fit to be passed on, or a new one."""
    return fit(given) or new()


def fit(given: bytes | None) -> bytes | None:
    """Return a caller's id if it can be passed on and logged, else None.

    Fit are 1 to 128 of [A-Za-z0-9._-] that do not look like an API key.
    """
    return given if given is not None and _TAKEN.fullmatch(given) else None


def new() -> bytes:
    """Return 32 random hexadecimal digits: they tell requests apart and open nothing."""
    return b"%032x" % getrandbits(128)  # `random` seeds itself anew in a forked process


def add_request_ids(app: Flask) -> None:
    """Name every request, as `flask.g.request_id`, and every answer to it, errors too.

    To be called before anything else hooks into requests, so that a refusal has its id, too.
    """

    @app.before_request
    def name_it() -> None:
        given = request.headers.get(HEADER)
        g.request_id = request_id(
            None if given is None else given.encode(errors="replace")
        ).decode()

    @app.after_request
    def say_it(response: Response) -> Response:
        response.headers[HEADER] = g.request_id  # instead of the engine's own, if it has one
        return response


class RequestIdFilter(logging.Filter):
    """Ends log lines that are written while a request is answered with its id."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Set `record.request`; let every line pass."""
        named = g.get("request_id") if has_app_context() else None
        record.request = f" [request {named}]" if named else ""
        return True
