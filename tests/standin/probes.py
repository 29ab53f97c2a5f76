"""Routes that real vLLM lacks: tests ask here for a behaviour, or for what the engine saw."""

import hashlib
import os
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

from .flags import Flags
from .journal import Journal
from .replies import CutError, Reply, event_reply, json_reply, stream_reply
from .server import Exchange
from .wire import BadRequestError

# Byte i of every download is i % 251: a prime, so that a lost or doubled block shows.
_PATTERN: Final = bytes(range(251)) * 256
_METADATA_SERVICE: Final = "http://169.254.169.254/"
_STALL_AFTER: Final = 2  # events


def echo(exchange: Exchange) -> Reply:
    """Tell what arrived, the body as its length and hash; memory does not grow with it."""
    digest = hashlib.sha256()
    length = 0
    for block in exchange.body:
        digest.update(block)
        length += len(block)
    request = exchange.request
    seen = {
        "method": request.method,
        "target": request.target,
        "headers": request.headers,
        "body_length": length,
        "body_sha256": digest.hexdigest(),
    }
    twice = (("X-Twice", "first"), ("X-Twice", "second"))
    return json_reply(HTTPStatus.OK, seen, (("X-Engine-Pid", str(os.getpid())), *twice))


def download(exchange: Exchange) -> Reply:
    """Send the number of bytes that ends the path, their length announced."""
    length = _size(exchange)
    return stream_reply("application/octet-stream", _pattern(length), length)


def chunked_download(exchange: Exchange) -> Reply:
    """Send the number of bytes that ends the path, chunked."""
    return stream_reply("application/octet-stream", _pattern(_size(exchange)))


def silent(exchange: Exchange) -> Reply:
    """Say nothing for `seconds`, then 200."""
    exchange.wait(exchange.query("seconds", 1.0))
    return json_reply(HTTPStatus.OK, {"silent": True})


def die_mid_stream(_exchange: Exchange) -> Reply:
    """Send two chunks and cut the connection, as an engine that dies does."""

    def blocks() -> Iterator[bytes]:
        yield b"data: one\n\n"
        yield b"data: two\n\n"
        raise CutError

    return stream_reply("text/event-stream; charset=utf-8", blocks())


def status(exchange: Exchange) -> Reply:
    """Answer the status that ends the path."""
    code = _size(exchange)
    if not HTTPStatus.OK <= code <= 599:
        raise BadRequestError(f"{code} is not a final status")
    return json_reply(code, {"status": code})


def redirect(_exchange: Exchange) -> Reply:
    """Point to where a proxy must never go."""
    return json_reply(HTTPStatus.FOUND, {}, (("location", _METADATA_SERVICE),))


def early_413(_exchange: Exchange) -> Reply:
    """Answer before reading the body, and never read it."""
    reply = json_reply(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"detail": "Request body too large"})
    return reply._replace(leaves_body_unread=True)


class Probes:
    """Handlers that need the flags or the journal."""

    def __init__(self, flags: Flags, journal: Journal) -> None:
        self._stall = flags.stall_stream
        self._journal = journal

    def sse(self, exchange: Exchange) -> Reply:
        """Send `count` events, the first after `first` seconds, then one every `gap`."""
        count = int(exchange.query("count", 3))
        gap, first = exchange.query("gap", 0.1), exchange.query("first", 0.0)

        def events() -> Iterator[str]:
            for number in range(count):
                exchange.wait(gap if number else first)
                if self._stall and number == _STALL_AFTER:
                    exchange.wait(None)
                yield f"event {number}"

        return event_reply(events())

    def seen(self, _exchange: Exchange) -> Reply:
        """List the last requests, newest last."""
        return json_reply(HTTPStatus.OK, [entry._asdict() for entry in self._journal.seen()])


def _size(exchange: Exchange) -> int:
    last = exchange.path.rpartition("/")[2]
    if not last.isdecimal():
        raise BadRequestError(f"{last!r} is not a number")
    return int(last)


def _pattern(length: int) -> Iterator[bytes]:
    for at in range(0, length, len(_PATTERN)):
        yield _PATTERN[: length - at]
