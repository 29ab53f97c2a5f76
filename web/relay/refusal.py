"""Errors that the relay itself answers, as bytes of HTTP, in the one shape of all errors."""

from __future__ import annotations

from shared.errors import FleetError, InstanceNotReady
from web.errors import code_of, error_body, status_of


def refusal(error: FleetError, request_id: bytes, *, last: bool) -> bytes:
    """Return the whole answer that says `error`; `last`: the connection ends after it."""
    status = status_of(error)
    body = error_body(status, str(error), code=code_of(error))
    retry = ""
    if isinstance(error, InstanceNotReady) and error.retry_after_s is not None:
        retry = f"Retry-After: {error.retry_after_s}\r\n"
    close = "Connection: close\r\n" if last else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Request-Id: {request_id.decode()}\r\n{retry}{close}\r\n"
    )
    return head.encode() + body
