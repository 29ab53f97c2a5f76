"""Errors as HTTP: one table of statuses, one JSON shape, OpenAI's, everywhere."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus

from flask import Flask, Response, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

from shared import errors
from web.http.connection import close_after

log = logging.getLogger(__name__)

_STATUS: dict[type[errors.FleetError], HTTPStatus] = {
    errors.InvalidRequest: HTTPStatus.BAD_REQUEST,
    errors.KeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.RequestTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.HeadersTooLarge: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.RequestTimeout: HTTPStatus.REQUEST_TIMEOUT,
    errors.NotSupported: HTTPStatus.NOT_IMPLEMENTED,
    errors.Unauthorized: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.NoCapacity: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.TooManyFollowers: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.InstanceNotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ModelUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.TooManyWaiting: HTTPStatus.TOO_MANY_REQUESTS,
    errors.EngineUnreachable: HTTPStatus.BAD_GATEWAY,
    errors.EngineTimeout: HTTPStatus.GATEWAY_TIMEOUT,
    errors.EngineError: HTTPStatus.BAD_GATEWAY,
    errors.StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.RecordUnreadable: HTTPStatus.SERVICE_UNAVAILABLE,
}
_RETRY_AFTER_S = {errors.NoCapacity: 10, errors.StoreUnavailable: 2, errors.TooManyFollowers: 5}
_STORE_ADVICE = (
    "; what runs goes on and can be used; see that the Redis of REDIS_URL runs, then try again: "
    "what was to be changed may have been, so a create is best sent with an Idempotency-Key"
)
CALLER_GONE_STATUS = 499  # nginx's; read only by one that closed no more than its sending half
CALLER_GONE = (
    "the caller closed its connection, or its sending half, before the answer began; "
    "keep both open until the answer is complete"
)
_READ_PAST = 64 * 1024  # bytes
_CLIENT_ERRORS = range(400, 500)


def status_of(error: errors.FleetError) -> HTTPStatus:
    """Return the status of the nearest mapped ancestor; 500 if there is none."""
    for cls in type(error).__mro__:
        if status := _STATUS.get(cls):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


def error_object(
    status: int, message: str, *, code: str, field: str | None = None
) -> dict[str, str | None]:
    """Return what stands below `error` in the OpenAI API."""
    kind = "invalid_request_error" if status in _CLIENT_ERRORS else "server_error"
    return {"message": message, "type": kind, "param": field, "code": code}


def error_body(status: int, message: str, *, code: str, field: str | None = None) -> bytes:
    """Return the JSON of an error in the shape of the OpenAI API, ending in a newline."""
    error = error_object(status, message, code=code, field=field)
    return json.dumps({"error": error}).encode() + b"\n"


def add_error_handlers(app: Flask) -> None:
    """Have every error answered in the one shape, whoever raised it."""
    app.register_error_handler(errors.FleetError, _fleet_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(ParseException, _malformed_body)
    app.register_error_handler(Exception, _bug)


def _fleet_error(error: errors.FleetError) -> Response:
    status = status_of(error)
    field = error.field if isinstance(error, errors.InvalidRequest) else None
    advice = _STORE_ADVICE if isinstance(error, errors.StoreUnavailable) else ""
    response = _response(status, f"{error}{advice}", code=code_of(error), field=field)
    retry_after = _RETRY_AFTER_S.get(type(error))
    if isinstance(error, errors.InstanceNotReady):
        retry_after = error.retry_after_s
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    if status is HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"  # RFC 9110, section 15.5.2
    return response


def _http_error(error: HTTPException) -> Response:
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    message = error.description or status.phrase
    if status is HTTPStatus.NOT_FOUND:
        message = f"no such path: {request.path}; see README.md for what there is"
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"{request.method} is not possible on {request.path}"
    response = _response(status, message, code=status.name.lower())
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


def _malformed_body(error: ParseException) -> Response:
    # gunicorn reads a chunked body only when the view does, so its complaint comes up here.
    body = f"body: malformed chunks: {error}"
    close_after(request.environ)  # where the next request begins is not known
    return _response(HTTPStatus.BAD_REQUEST, body, code="invalid_request")


def _bug(error: Exception) -> Response:
    log.error("%s %s", request.method, request.path, exc_info=error)
    return _response(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "a fault of the fleet itself; its log has the details",
        code="internal_server_error",
    )


def _close_before_a_long_body() -> None:
    # gunicorn reads on past a short one; a longer one it leaves, and closes unannounced.
    if (request.content_length or 0) > _READ_PAST or "Transfer-Encoding" in request.headers:
        close_after(request.environ)


def _response(status: int, message: str, *, code: str, field: str | None = None) -> Response:
    _close_before_a_long_body()
    body = error_body(status, message, code=code, field=field)
    return Response(body, status, content_type="application/json")


def code_of(error: errors.FleetError) -> str:
    """Return a class name as a code: InvalidRequest → invalid_request."""
    name = type(error).__name__
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).removeprefix("_")
