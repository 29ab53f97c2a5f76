"""Errors that the relay itself answers, as bytes of HTTP, in the one shape of all errors."""

from __future__ import annotations

from gunicorn.util import http_date

from shared.errors import FleetError, InstanceNotReady
from web.http.errors import CALLER_GONE, CALLER_GONE_STATUS, code_of, error_body, status_of


def refusal(error: FleetError, request_id: bytes) -> bytes:
    """Return the whole answer that says `error`; the connection ends after it."""
    status = status_of(error)
    body = error_body(status, str(error), code=code_of(error))
    wait = error.retry_after_s if isinstance(error, InstanceNotReady) else None
    retry = "" if wait is None else f"Retry-After: {wait}\r\n"
    return _answer(f"{status.value} {status.phrase}", body, request_id, retry)


def caller_gone(request_id: bytes) -> bytes:
    """Return the whole answer for a caller that has closed its sending half."""
    body = error_body(CALLER_GONE_STATUS, CALLER_GONE, code="client_closed_request")
    return _answer(f"{CALLER_GONE_STATUS} Client Closed Request", body, request_id)


def _answer(status: str, body: bytes, request_id: bytes, more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"X-Request-Id: {request_id.decode()}\r\nDate: {http_date()}\r\n{more}"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
