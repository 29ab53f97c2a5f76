"""Answers before they are sent."""

import json
import time
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import NamedTuple

Header = tuple[str, str]


class Reply(NamedTuple):
    """One answer; a body that is an iterator is sent block by block as it is made."""

    status: int
    headers: tuple[Header, ...]
    body: bytes | Iterator[bytes]
    length: int | None  # bytes; None: not known, so chunked
    leaves_body_unread: bool = False  # close after the answer, without reading the request's body

    @property
    def reason(self) -> str:
        """The reason phrase; "" for a status that has none."""
        try:
            return HTTPStatus(self.status).phrase
        except ValueError:
            return ""


class CutError(Exception):
    """A body ends here: the connection is closed without the final chunk."""


def bytes_reply(status: int, body: bytes, kind: str, headers: Iterable[Header] = ()) -> Reply:
    """Return `body` of content type `kind`; no type is sent for an empty one."""
    typed = (("content-type", kind),) if body else ()
    return Reply(status, (*_base(), *typed, *headers), body, len(body))


def json_reply(status: int, value: object, headers: Iterable[Header] = ()) -> Reply:
    """Return `value` as compact JSON."""
    return bytes_reply(status, compact(value), "application/json", headers)


def error_reply(status: int, message: str, kind: str, param: str | None = None) -> Reply:
    """Return the error object of the OpenAI API, as vLLM fills it in."""
    error = {"message": message, "type": kind, "param": param, "code": status}
    return json_reply(status, {"error": error})


def stream_reply(kind: str, blocks: Iterator[bytes], length: int | None = None) -> Reply:
    """Return `blocks` of content type `kind`: chunked, or `length` bytes in all."""
    return Reply(HTTPStatus.OK, (*_base(), ("content-type", kind)), blocks, length)


def event_reply(events: Iterator[str]) -> Reply:
    """Return server-sent events, one chunk each."""
    blocks = (f"data: {event}\n\n".encode() for event in events)
    return stream_reply("text/event-stream; charset=utf-8", blocks)


def compact(value: object) -> bytes:
    """Return `value` as JSON without blanks."""
    return json.dumps(value, separators=(",", ":")).encode()


def _base() -> tuple[Header, ...]:
    now = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    return (("date", now), ("server", "uvicorn"))
