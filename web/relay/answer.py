"""The head of an engine's answer: checked, and rewritten for the caller. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from web.http.headers import OURS, goes_to_caller

_PLAIN = re.compile(
    rb"HTTP/1\.([01]) ([1-5][0-9][0-9])( [\t -~\x80-\xff]*)?"
    rb"((?:\r\n[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*)*)"
)
_LENGTH = re.compile(rb"[0-9]{1,15}")
_OURS = b"".join(b"\r\n%b: %b" % (name.encode(), value.encode()) for name, value in OURS.items())
BODILESS = frozenset({204, 304})
"""Statuses of answers without a body; a length there says something else (RFC 9110, 8.6)."""

SWITCHING_PROTOCOLS = 101


class BadAnswer(ValueError):
    """The head cannot be passed on; says what is wrong with it."""


class Body(Enum):
    """How the end of an answer's body is known."""

    COUNTED = "by Content-Length"
    CHUNKED = "by its last chunk"
    UNTIL_CLOSE = "by the end of the connection"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerHead:
    """What a head says, and the head that the caller gets."""

    status: int
    body: Body
    length: int  # of a counted body, in bytes
    reusable: bool  # the connection takes another request afterwards
    head: bytes  # status line and headers, without the one that tells the length

    def for_caller(self, length: int, request_id: bytes, date: bytes, *, last: bool) -> bytes:
        """Return the head as the caller gets it, with the empty line that ends it.

        Args:
            length: of a counted body; may differ from this head's where the engine repeats itself.
            request_id: for X-Request-Id.
            date: for Date.
            last: the caller's connection ends after this answer.
        """
        close = b"\r\nConnection: close" if last else b""
        if self.body is Body.COUNTED and self.status not in BODILESS:
            return b"%b\r\nContent-Length: %d\r\nX-Request-Id: %b\r\nDate: %b%b\r\n\r\n" % (
                self.head, length, request_id, date, close,
            )  # fmt: skip
        return b"%b\r\nX-Request-Id: %b\r\nDate: %b%b\r\n\r\n" % (
            self.head, request_id, date, close,
        )  # fmt: skip

    def for_tunnel(self, request_id: bytes, date: bytes) -> bytes:
        """Return the head of an answer that turns the connection into a WebSocket."""
        return (
            b"%b\r\nConnection: Upgrade\r\nUpgrade: websocket"
            b"\r\nX-Request-Id: %b\r\nDate: %b\r\n\r\n"
        ) % (self.head, request_id, date)


def answer_head(head: bytes) -> AnswerHead:
    """Return what the head of an answer to a GET or POST says.

    Args:
        head: everything before the empty line, without the last CRLF.

    Raises:
        BadAnswer: it could be read in two ways, or is no head.
    """
    found = _PLAIN.fullmatch(head)
    if found is None:
        raise BadAnswer("it is not a well-formed HTTP/1 head")
    minor, status = found[1], int(found[2])
    kept: list[bytes] = []
    values: dict[bytes, bytes] = {}
    for line in found[4][2:].split(b"\r\n") if found[4] else ():
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding", b"connection"):
            if name in values:
                raise BadAnswer(f"it has two headers {name.decode()}")
            values[name] = value.strip(b" \t").lower()
        elif goes_to_caller(name.decode()):
            kept.append(line)
    listed = {option.strip() for option in values.get(b"connection", b"").split(b",")}
    if listed - {b"", b"close", b"keep-alive", b"upgrade"}:
        kept = [line for line in kept if line.partition(b":")[0].lower() not in listed]
    body, length = _framing(minor, status, values)
    lines = [b"HTTP/1.1 %d%b" % (status, found[3] or b" "), *kept]
    if body is Body.CHUNKED:
        lines.append(b"Transfer-Encoding: chunked")
    return AnswerHead(
        status=status,
        body=body,
        length=length,
        reusable=minor == b"1" and b"close" not in listed and body is not Body.UNTIL_CLOSE,
        head=b"\r\n".join(lines) + _OURS,
    )


def _framing(minor: bytes, status: int, values: dict[bytes, bytes]) -> tuple[Body, int]:
    coding, length = values.get(b"transfer-encoding"), values.get(b"content-length")
    if coding is not None and length is not None:
        raise BadAnswer("it has both Content-Length and Transfer-Encoding")
    if length is not None and not _LENGTH.fullmatch(length):
        raise BadAnswer(f"its Content-Length is {length[:40]!r}")
    if coding not in (None, b"chunked"):
        raise BadAnswer(f"its Transfer-Encoding is {coding[:40]!r}, not chunked")
    if coding is not None and minor == b"0":
        raise BadAnswer("it is chunked in HTTP/1.0, which has no chunks")
    if status in BODILESS:
        return Body.COUNTED, 0
    if coding is not None:
        return Body.CHUNKED, 0
    if length is not None:
        return Body.COUNTED, int(length)
    return Body.UNTIL_CLOSE, 0
