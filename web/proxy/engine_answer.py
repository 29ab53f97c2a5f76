"""An engine's answer as a WSGI response: what of its head passes, and its body as it comes."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import h11
from flask import Response
from werkzeug.datastructures import Headers

from shared.domain.instance import Instance
from web.http.headers import OURS, goes_to_caller
from web.http.upload import CallerGone
from web.proxy.exchange import AnswerBroken, Exchange
from web.proxy.makers import HEARD_BYTES
from web.tables.activity import Activity

log = logging.getLogger(__name__)


class AnswerBody:
    """The answer's body as a WSGI server reads it; closing it ends the exchange."""

    def __init__(
        self, exchange: Exchange, pieces: Iterable[bytes], activity: Activity, instance_id: str
    ) -> None:
        self._exchange = exchange
        # gunicorn sends the head with the first piece, even an empty one; a stream's head must not
        # wait for its first token.
        self._pieces = chain([b""], pieces)
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


def told(
    pieces: Iterable[bytes], heard: Callable[[bytes, Instance], bool], instance: Instance
) -> Iterator[bytes]:
    """Yield the pieces, and tell their beginning to `heard`."""
    beginning = b""
    waits = True
    for piece in pieces:
        if waits:
            beginning += piece
            waits = not heard(beginning, instance) and len(beginning) < HEARD_BYTES
        yield piece


class _EngineResponse(Response):
    """Says what the engine said: Werkzeug would drop and rewrite headers of some answers."""

    def get_wsgi_headers(self, _environ: object) -> Headers:
        """Return the headers as they are."""
        return self.headers


def response_of(answer: h11.Response, body: AnswerBody) -> Response:
    """Return an engine's answer as it goes to the caller."""
    given = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
    named = named_by_connection(given)
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


def named_by_connection(headers: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Return the headers that are for one connection only because Connection says so."""
    return frozenset(
        option.strip().lower()
        for name, value in headers
        if name.lower() == "connection"
        for option in value.split(",")
    )
