"""`ANY /proxy/{id}/{path}`: any request to that engine, streamed both ways.

Complete and ordinary, correct under any WSGI server.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Iterator

import h11
from flask import Flask, Response, g, request
from werkzeug.datastructures import Headers
from werkzeug.http import is_hop_by_hop_header
from werkzeug.routing import BaseConverter, Rule

from shared.domain.instance import Instance
from shared.errors import EngineUnreachable
from web import request_id
from web.activity import Activity
from web.caller import caller_socket
from web.exchange import AnswerBroken, CallerGone, Exchange, Patience
from web.exchange import Headers as RawHeaders
from web.routing import RoutingTable
from web.target import engine_target

_CHUNK = 64 * 1024
_CLIENT_CLOSED_REQUEST = 499  # nginx's; nobody is left to read it

_NOT_FORWARDED = frozenset(
    {
        "host", "content-length", "expect",  # ours to say
        "authorization", "cookie", "x-api-key",  # the caller's secrets; the engine has its own key
        "x-request-id",  # checked first: ours, or the caller's if it is fit to be passed on
        "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip",
    }
)  # fmt: skip
_NOT_RETURNED = frozenset({"date", "server"})  # the web server says its own; two would be wrong

log = logging.getLogger(__name__)


class Proxy:
    """Moves requests and answers between callers and engines; chooses nothing."""

    def __init__(self, table: RoutingTable, activity: Activity, patience: Patience) -> None:
        self._table = table
        self._activity = activity
        self._patience = patience

    def add_to(self, app: Flask) -> None:
        """Take all methods on all paths below /proxy/{id}."""
        app.url_map.converters["rest"] = _Rest
        # Flask's own route() insists on a list of methods; a rule without one takes any.
        for path in ("/proxy/<instance_id>", "/proxy/<instance_id>/<rest:_>"):
            app.url_map.add(Rule(path, endpoint="proxy", methods=None, strict_slashes=False))
        app.view_functions["proxy"] = self.view

    def view(self, instance_id: str, _: str = "") -> Response:
        """Forward this request to its engine and stream the answer back."""
        target = engine_target(_raw_target(), f"/proxy/{instance_id}")
        instance = self._table.route(instance_id)
        self._activity.begin(instance_id)
        try:
            return self._forward(instance, target)
        except BaseException as error:
            self._activity.end(instance_id)
            if isinstance(error, CallerGone):
                return Response(status=_CLIENT_CLOSED_REQUEST)
            raise

    def _forward(self, instance: Instance, target: str) -> Response:
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
            exchange.send(
                request.method.encode(), target.encode(), _request_headers(instance), _body()
            )
            answer = exchange.answer()
        except BaseException:
            exchange.close()
            raise
        return _response(answer, _AnswerBody(exchange, self._activity, instance.instance_id))


class _Rest(BaseConverter):
    """Whatever follows: Werkzeug's `path` does not take `//`, and we want to say why we do not."""

    part_isolating = False
    regex = ".*"


class _AnswerBody:
    """The answer's body as a WSGI server reads it; closing it ends the exchange."""

    def __init__(self, exchange: Exchange, activity: Activity, instance_id: str) -> None:
        self._exchange = exchange
        self._pieces = exchange.body()
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


def _request_headers(instance: Instance) -> RawHeaders:
    host = f"[{instance.host}]" if ":" in instance.host else instance.host
    headers = [
        ("Host", f"{host}:{instance.port}"),
        ("Authorization", f"Bearer {instance.engine_key}"),
        (request_id.HEADER, g.request_id),
        *_end_to_end(request.headers.items(), _NOT_FORWARDED),
    ]
    if request.content_length is not None:
        headers.append(("Content-Length", str(request.content_length)))
    elif _is_chunked():
        headers.append(("Transfer-Encoding", "chunked"))
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _body() -> Iterable[bytes]:
    if request.content_length or _is_chunked():
        return iter(lambda: request.stream.read(_CHUNK), b"")
    return ()


def _is_chunked() -> bool:
    return "chunked" in request.headers.get("Transfer-Encoding", "").lower()


def _response(answer: h11.Response, body: _AnswerBody) -> Response:
    headers = Headers(
        _end_to_end(
            ((name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers),
            _NOT_RETURNED,
        )
    )
    has_type = "Content-Type" in headers
    headers["X-Accel-Buffering"] = "no"  # a proxy in front of us must not collect the stream
    response = Response(body, answer.status_code, headers, direct_passthrough=True)
    if not has_type:
        del response.headers["Content-Type"]  # Flask's guess, not the engine's word
    return response


def _end_to_end(
    headers: Iterable[tuple[str, str]], dropped: frozenset[str]
) -> list[tuple[str, str]]:
    """Return the headers that are not for one connection only (RFC 9110, section 7.6.1)."""
    listed = list(headers)
    connection = {
        option.strip().lower()
        for name, value in listed
        if name.lower() == "connection"
        for option in value.split(",")
    }
    return [
        (name, value)
        for name, value in listed
        if not is_hop_by_hop_header(name)
        and name.lower() not in dropped
        and name.lower() not in connection
    ]
