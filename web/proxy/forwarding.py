"""One request on its way to an engine and its answer back, for every view that forwards one.

Complete and ordinary, correct under any WSGI server. Which engine is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flask import Response, g, request
from gunicorn.http.body import Body

from shared.address import authority
from shared.domain.instance import Instance
from shared.errors import (
    EngineUnreachable,
    FleetError,
    HeadersTooLarge,
    InvalidRequest,
    NotSupported,
)
from web.http import request_id
from web.http.caller import caller_socket
from web.http.connection import close_after
from web.http.errors import CALLER_GONE, CALLER_GONE_STATUS, error_body
from web.http.headers import HOP_BY_HOP, NOT_TO_ENGINE
from web.http.upload import GunicornUpload, NoUpload, PlainUpload, Upload, too_large
from web.proxy.engine_answer import AnswerBody, named_by_connection, response_of, told
from web.proxy.exchange import Exchange, Patience
from web.proxy.exchange import Headers as RawHeaders
from web.proxy.held_body import HeldBody
from web.tables.activity import Activity
from web.tables.routing import RoutingTable

_UNAUTHORIZED = 401

INSTANCE = "fleet.instance"
"""What in a WSGI environment tells which instance a request went to."""

# Where vLLM's own key is asked for: plain prefixes; and never for OPTIONS (0.33.0,
# entrypoints/serve/middleware/authenticate.py).
_GUARDED = ("/v1", "/v2", "/inference", "/cohere")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the proxy takes of one request."""

    body: int  # bytes
    header_bytes: int  # of all headers
    headers: int


class Forwarding:
    """Moves requests and answers between callers and engines; chooses nothing."""

    def __init__(
        self, table: RoutingTable, activity: Activity, patience: Patience, limits: Limits
    ) -> None:
        self._table = table
        self._activity = activity
        self._patience = patience
        self._limits = limits

    def accept(self) -> Upload:
        """Return the body of this request, if its head is one to forward.

        Raises:
            InvalidRequest, HeadersTooLarge, NotSupported: its head is not.
            RequestTooLarge: its announced length is over the limit.
        """
        try:
            _check_head(self._limits)
            return _upload(self._limits.body, self._patience.body)
        except FleetError:
            close_after(request.environ)  # its body is still to come
            raise

    def connect(self, instance: Instance) -> Exchange:
        """Connect to the instance's engine; from here on, until it is closed, it is in use.

        Raises:
            EngineUnreachable, InstanceNotReady: no connection was made, so nothing was sent.
        """
        self._activity.begin(instance.instance_id)
        try:
            return Exchange(
                instance.host,
                instance.port or 0,
                caller_socket=caller_socket(request.environ),
                patience=self._patience,
            )
        except EngineUnreachable as error:
            self._activity.end(instance.instance_id)
            refused = isinstance(error.__cause__, ConnectionRefusedError)
            refusal = (refused and self._table.gone(instance)) or self._table.unreached(instance)
            if refusal:
                raise refusal from error
            raise

    def ask(self, instance: Instance, target: str) -> int:
        """GET `target` from the instance's engine; return the status.

        Raises:
            EngineError, InstanceNotReady: it gave no answer, or another engine did.
            CallerGone: nobody waits for it any more.
        """
        exchange = self.connect(instance)
        try:
            status = exchange.ask(target.encode(), _encoded(_own_headers(instance)))
            self._require_own(status, instance)
            return status
        finally:
            exchange.close()
            self._activity.end(instance.instance_id)

    def forward(
        self,
        exchange: Exchange,
        instance: Instance,
        target: str,
        upload: Upload,
        heard: Callable[[bytes, Instance], bool] | None = None,
    ) -> Response:
        """Send this request over a connection to its engine; stream the answer back.

        The connection is closed when the response is, or at once if there is none.

        Args:
            exchange: the connection, of `connect`.
            instance: whose engine it leads to.
            target: path and query for the engine.
            upload: the body.
            heard: told the beginning of the answer, piece by piece, until it says to have enough.

        Raises:
            EngineError, InstanceNotReady: there is no answer that could be passed on.
            CallerGone: nobody waits for it any more.
        """
        request.environ[INSTANCE] = instance.instance_id
        try:
            if not target.startswith(_GUARDED) or request.method == "OPTIONS":
                # Where vLLM does not ask for its key, we ask first, over the same connection.
                proof = exchange.ask(b"/v1/models", _encoded(_own_headers(instance)))
                self._require_own(proof, instance)
            headers = _request_headers(instance, upload)
            exchange.send(request.method.encode(), target.encode(), headers, upload)
            answer = exchange.answer()
            self._require_own(answer.status_code, instance)
            pieces = exchange.body() if heard is None else told(exchange.body(), heard, instance)
            body = AnswerBody(exchange, pieces, self._activity, instance.instance_id)
            return response_of(answer, body)
        except BaseException as error:
            exchange.close()
            self._activity.end(instance.instance_id)
            lost = isinstance(error, EngineUnreachable) and self._table.unreached(instance)
            if lost:
                raise lost from error
            raise

    def _require_own(self, status: int, instance: Instance) -> None:
        """Return if an answer is of the instance's own engine, which takes its key.

        Raises:
            InstanceNotReady: it is of another one.
        """
        if status == _UNAUTHORIZED:
            raise self._table.another_answers(instance)


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
    if is_websocket():
        raise NotSupported("header Upgrade: this way does not pass WebSockets on; see README.md")
    coding = request.headers.get("Transfer-Encoding", "chunked")
    if coding.strip().lower() != "chunked":
        raise NotSupported(f"header Transfer-Encoding: {coding!r}; only chunked is taken")


def is_websocket() -> bool:
    """Return whether this request asks to become a WebSocket."""
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


def gone() -> Response:
    """Return the answer to a caller that has closed its sending half."""
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


def _request_headers(instance: Instance, upload: Upload) -> RawHeaders:
    headers = [
        *_own_headers(instance),
        (request_id.HEADER, g.request_id),
        *_forwarded(list(request.headers.items())),
    ]
    if isinstance(upload, HeldBody) and (upload.length or request.content_length is not None):
        headers.append(("Content-Length", str(upload.length)))
    elif request.content_length is not None:
        headers.append(("Content-Length", str(request.content_length)))
    elif _is_chunked() and not isinstance(upload, HeldBody):
        headers.append(("Transfer-Encoding", "chunked"))
    return _encoded(headers)


def _forwarded(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    dropped = HOP_BY_HOP | NOT_TO_ENGINE | named_by_connection(headers)
    return [(name, value) for name, value in headers if name.lower() not in dropped]
