"""A stream of events that began before its engine's answer: comment lines came first. Pure.

Its head went out as that of a stream, so the answer goes on as one, whatever it is.
"""

from __future__ import annotations

from shared.errors import FleetError
from web.http.headers import OURS
from web.models.holding import EVENTS, comment, error_event, one_event
from web.relay.answer import AnswerHead, BadAnswer, Body

_OK = 200
_MOST = 1024 * 1024  # bytes of an answer that is no stream: of a model's, an error
_LAST_CHUNK = b"0\r\n\r\n"
_OURS = b"".join(b"\r\n%b: %b" % (name.encode(), value.encode()) for name, value in OURS.items())


class Joined:
    """Puts an engine's answer into a stream that goes on."""

    __slots__ = ("_as_event",)

    def __init__(self) -> None:
        self._as_event: bytearray | None = None  # the answer, where it is none

    def begin(self, answer: AnswerHead, length: int, body: bytes) -> None:
        """Take the head of the answer, and what is there of its body.

        Raises:
            BadAnswer: it cannot become part of a stream.
        """
        if answer.status == _OK and answer.body is Body.CHUNKED:
            return
        if answer.body is not Body.COUNTED or length > _MOST:
            raise BadAnswer(f"with status {answer.status}, what is no part of a stream")
        self._as_event = bytearray(body)

    def passed(self, data: bytes) -> bytes:
        """Return what to send of the answer's body, of which `data` came."""
        if self._as_event is None:
            return data
        self._as_event += data
        return b""

    def end(self) -> bytes:
        """Return what to send at the end of the answer."""
        if self._as_event is None:
            return b""
        return chunk(one_event(bytes(self._as_event))) + _LAST_CHUNK

    def last(self, error: FleetError) -> bytes:
        """Return the end of a stream that gets no answer."""
        return chunk(error_event(error)) + _LAST_CHUNK


def stream_head(request_id: bytes, date: bytes, *, last: bool) -> bytes:
    """Return the head of a stream; arguments as for `AnswerHead.for_caller`."""
    close = b"\r\nConnection: close" if last else b""
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nCache-Control: no-cache"
        b"\r\nTransfer-Encoding: chunked%b\r\nX-Request-Id: %b\r\nDate: %b%b\r\n\r\n"
    ) % (EVENTS.encode(), _OURS, request_id, date, close)


def comment_chunk(said: str) -> bytes:
    """Return a comment line as a chunk."""
    return chunk(comment(said))


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
