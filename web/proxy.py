"""`ANY /proxy/{id}/{path}`: any request to that engine, streamed both ways.

Complete and ordinary, correct under any WSGI server.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import h11
from flask import Flask, Response, g, request
from gunicorn.http.body import Body
from werkzeug.datastructures import Headers
from werkzeug.routing import BaseConverter, Rule

from shared.address import authority
from shared.domain.instance import Instance
from shared.errors import (
    EngineUnreachable,
    FleetError,
    HeadersTooLarge,
    InstanceNotReady,
    InvalidRequest,
    NotSupported,
)
from web import request_id
from web.activity import Activity
from web.auth import authorize
from web.caller import caller_socket
from web.connection import close_after
from web.engine_paths import EnginePaths
from web.errors import CALLER_GONE, CALLER_GONE_STATUS, error_body
from web.exchange import AnswerBroken, Exchange, Patience
from web.exchange import Headers as RawHeaders
from web.headers import HOP_BY_HOP, NOT_TO_ENGINE, OURS, goes_to_caller
from web.routing import RoutingTable
from web.target import engine_target
from web.upload import CallerGone, GunicornUpload, NoUpload, PlainUpload, Upload, too_large

_UNAUTHORIZED = 401

# Where vLLM's own key is asked for: plain prefixes; and never for OPTIONS (0.33.0,
# entrypoints/serve/middleware/authenticate.py).
_GUARDED = ("/v1", "/v2", "/inference", "/cohere")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the proxy takes of one request."""

    body: int  # bytes
    header_bytes: int  # of all headers
    headers: int


class Proxy:
    """Moves requests and answers between callers and engines; chooses nothing."""

    def __init__(
        self,
        table: RoutingTable,
        activity: Activity,
        paths: EnginePaths,
        patience: Patience,
        limits: Limits,
    ) -> None:
        self._table = table
        self._activity = activity
        self._paths = paths
        self._patience = patience
        self._limits = limits

    def add_to(self, app: Flask) -> None:
        """Take all methods on all paths below /proxy/{id}."""
        app.url_map.converters["rest"] = _Rest
        # Flask's own route() insists on a list of methods; a rule without one takes any.
        for path in ("/proxy/<instance_id>", "/proxy/<instance_id>/<rest:_>"):
            for websocket in (False, True):
                rule = Rule(path, endpoint="proxy", strict_slashes=False, websocket=websocket)
                app.url_map.add(rule)
        app.view_functions["proxy"] = self.view

    def view(self, instance_id: str, _: str = "") -> Response:
        """Forward this request to its engine and stream the answer back."""
        target = engine_target(_raw_target(), f"/proxy/{instance_id}")
        path = target.partition("?")[0]
        access = self._paths.access(path, request.method)
        # Before `route`, whose refusals tell that there is such an instance and how it is.
        authorize(g.principal, instance_id, self._table.last_known(instance_id), access, path)
        instance = self._table.route(instance_id)
        if _is_websocket() and self._table.serving(instance_id) is None:
            # The relay takes only what the table knows, which hears of a new one in a moment.
            raise InstanceNotReady(f"instance {instance_id} has just come up", retry_after_s=1)
        upload = self._accept()
        self._activity.begin(instance_id)
        try:
            return self._forward(instance, target, upload)
        except CallerGone:
            self._activity.end(instance_id)
            return _gone()
        except BaseException:
            self._activity.end(instance_id)
            raise
        finally:
            if not upload.complete:
                close_after(request.environ)

    def _accept(self) -> Upload:
        """Return the body of this request, if its head is one to forward."""
        try:
            _check_head(self._limits)
            return _upload(self._limits.body, self._patience.body)
        except FleetError:
            close_after(request.environ)  # its body is still to come
            raise

    def _forward(self, instance: Instance, target: str, upload: Upload) -> Response:
        try:
            exchange = Exchange(
                instance.host,
                instance.port or 0,
                caller_socket=caller_socket(request.environ),
                patience=self._patience,
            )
        except EngineUnreachable as error:
            refused = isinstance(error.__cause__, ConnectionRefusedError)
            if refused and (refusal := self._table.gone(instance)):
                raise refusal from error
            raise
        try:
            if not target.startswith(_GUARDED) or request.method == "OPTIONS":
                # Where vLLM does not ask for its key, we ask first, over the same connection.
                proof = exchange.ask(b"/v1/models", _encoded(_own_headers(instance)))
                self._require_own(proof, instance)
            headers = _request_headers(instance)
            exchange.send(request.method.encode(), target.encode(), headers, upload)
            answer = exchange.answer()
            self._require_own(answer.status_code, instance)
            body = _AnswerBody(exchange, self._activity, instance.instance_id)
            return _response(answer, body)
        except BaseException:
            exchange.close()
            raise

    def _require_own(self, status: int, instance: Instance) -> None:
        """Return if an answer is of the instance's own engine, which takes its key.

        Raises:
            InstanceNotReady: it is of another one.
        """
        if status == _UNAUTHORIZED:
            raise self._table.another_answers(instance)


class _Rest(BaseConverter):
    """Whatever follows: Werkzeug's `path` does not take `//`, and we want to say why we do not."""

    part_isolating = False
    regex = ".*"


class _AnswerBody:
    """The answer's body as a WSGI server reads it; closing it ends the exchange."""

    def __init__(self, exchange: Exchange, activity: Activity, instance_id: str) -> None:
        self._exchange = exchange
        # gunicorn sends the head with the first piece, even an empty one; a stream's head must not
        # wait for its first token.
        self._pieces = chain([b""], exchange.body())
        self._activity = activity
        self._instance_id = instance_id
        self._open = True

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except (AnswerBroken, CallerGone) as error:
            self.close()
            if isinstance(error, AnswerBroken):
                log.warning("instance %s: %s", self._instance_id, error)
            # As a reset, the server closes the connection without the final chunk: the caller
            # must not take a part for the whole.
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from error

    def close(self) -> None:
        """End the exchange; harmless to repeat."""
        if self._open:
            self._open = False
            self._exchange.close()
            self._activity.end(self._instance_id)


def _raw_target() -> str:
    """Return the request target as it stood in the request line, where the server gives it."""
    environ = request.environ
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    return raw if isinstance(raw, str) else request.full_path.removesuffix("?")


def _check_head(limits: Limits) -> None:
    """Return if this request's head is one to forward.

    Raises:
        InvalidRequest: it lacks what HTTP asks for.
        HeadersTooLarge: it has too many headers, or too long ones.
        NotSupported: it wants another protocol, or its body has another coding than `chunked`.
    """
    headers = list(request.headers.items())
    if "Host" not in request.headers and request.environ.get("SERVER_PROTOCOL") == "HTTP/1.1":
        raise InvalidRequest("header Host: is missing", field="Host")  # RFC 9112, section 3.2
    if len(headers) > limits.headers:
        raise HeadersTooLarge(f"headers: {len(headers)}, more than PROXY_MAX_HEADERS allows")
    size = sum(len(name) + len(value) + len(": \r\n") for name, value in headers)
    if size > limits.header_bytes:
        raise HeadersTooLarge(f"headers: {size} bytes, more than PROXY_MAX_HEADER_BYTES allows")
    if _is_websocket():
        raise NotSupported("header Upgrade: this way does not pass WebSockets on; see README.md")
    coding = request.headers.get("Transfer-Encoding", "chunked")
    if coding.strip().lower() != "chunked":
        raise NotSupported(f"header Transfer-Encoding: {coding!r}; only chunked is taken")


def _is_websocket() -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def _upload(limit: int, patience_s: float) -> Upload:
    """Return the body of this request.

    Raises:
        RequestTooLarge: its announced length is over the limit.
    """
    if not request.content_length and not _is_chunked():
        return NoUpload()
    if (request.content_length or 0) > limit:
        raise too_large()
    source = request.environ.get("wsgi.input")
    caller = caller_socket(request.environ)
    if isinstance(source, Body) and caller is not None:
        return GunicornUpload(source, caller, limit=limit, patience_s=patience_s)
    return PlainUpload(request.stream, limit=limit)


def _is_chunked() -> bool:
    return "Transfer-Encoding" in request.headers


def _gone() -> Response:
    close_after(request.environ)
    body = error_body(CALLER_GONE_STATUS, CALLER_GONE, code="client_closed_request")
    status = f"{CALLER_GONE_STATUS} Client Closed Request"
    return Response(body, status, content_type="application/json")


def _own_headers(instance: Instance) -> list[tuple[str, str]]:
    return [
        ("Host", authority(instance.host, instance.port)),
        ("Authorization", f"Bearer {instance.engine_key}"),
    ]


def _encoded(headers: list[tuple[str, str]]) -> RawHeaders:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _request_headers(instance: Instance) -> RawHeaders:
    headers = [
        *_own_headers(instance),
        (request_id.HEADER, g.request_id),
        *_forwarded(list(request.headers.items())),
    ]
    if request.content_length is not None:
        headers.append(("Content-Length", str(request.content_length)))
    elif _is_chunked():
        headers.append(("Transfer-Encoding", "chunked"))
    return _encoded(headers)


class _EngineResponse(Response):
    """Says what the engine said: Werkzeug would drop and rewrite headers of some answers."""

    def get_wsgi_headers(self, _environ: object) -> Headers:
        """Return the headers as they are."""
        return self.headers


def _response(answer: h11.Response, body: _AnswerBody) -> Response:
    given = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
    named = _named_by_connection(given)
    headers = Headers(
        (name, value)
        for name, value in given
        if goes_to_caller(name.lower()) and name.lower() not in named
    )
    headers.update(OURS)
    has_type = "Content-Type" in headers
    response = _EngineResponse(body, answer.status_code, headers, direct_passthrough=True)
    if not has_type:
        del response.headers["Content-Type"]  # Flask's guess, not the engine's word
    return response


def _forwarded(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    dropped = HOP_BY_HOP | NOT_TO_ENGINE | _named_by_connection(headers)
    return [(name, value) for name, value in headers if name.lower() not in dropped]


def _named_by_connection(headers: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Return the headers that are for one connection only because Connection says so."""
    return frozenset(
        option.strip().lower()
        for name, value in headers
        if name.lower() == "connection"
        for option in value.split(",")
    )
