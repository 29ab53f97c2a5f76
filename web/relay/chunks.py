"""Where a chunked body ends (RFC 9112, section 7.1). Pure.

The relay passes chunks on as they are, so it must know to the byte where the body ends, and that
nobody else can read it otherwise: sizes are plain hexadecimal, lines end in CRLF, and there are no
trailers.
"""

from __future__ import annotations

import re

_SIZE = rb"([0-9A-Fa-f]{1,15})(?:;[\t -~\x80-\xff]{0,4096})?"  # with its extensions
_SIZE_LINE = re.compile(_SIZE + rb"\r\n")
_BEGUN = re.compile(_SIZE + rb"(?:\r(?:\n\r?)?)?")  # and what may be there of the last CRLF, too
_CRLF = 2
_MAX_DIGITS = 3


def _line_of_whole_chunks() -> tuple[bytes, ...]:
    """Return, by the length of a piece, the size line it has if it is one whole chunk.

    As uvicorn writes it, that is: in lower case, without zeros in front.
    """
    longest = (2**4) ** _MAX_DIGITS - 1
    line_of = {}
    for size in range(1, longest + 1):
        line = b"%x\r\n" % size
        line_of[len(line) + size + _CRLF] = line
    none = bytes(2 * longest)  # no piece that is shorter begins with it
    return tuple(line_of.get(length, none) for length in range(max(line_of) + 1))


_LINE_OF = _line_of_whole_chunks()
_USUAL = len(_LINE_OF)  # pieces shorter than this are looked up there


class BadChunks(ValueError):
    """The body is not chunked as it must be."""


class Chunks:
    """Follows one chunked body, piece by piece as it comes."""

    __slots__ = ("_left", "_line")

    def __init__(self) -> None:
        self._left = 0  # bytes of the chunk under way, and its CRLF, that are still to come
        self._line = b""  # the beginning of a size line that is not complete yet

    @property
    def between(self) -> bool:
        """Whether a chunk has ended and nothing of the next one has come."""
        return not self._left and not self._line

    def end_in(self, piece: bytes) -> int:
        """Follow `piece`; return the offset in it at which the body ends, or -1 if it goes on.

        Raises:
            BadChunks: says what is wrong, as soon as no further byte could make it right.
        """
        size = len(piece)
        if (
            size < _USUAL
            and piece.startswith(_LINE_OF[size])
            and piece.endswith(b"\r\n")
            and not self._left
            and not self._line
        ):
            return -1  # one whole chunk: a token, as it usually comes
        held = len(self._line)
        data = self._line + piece if held else piece
        self._line = b""
        position, size = self._after_chunk(data, 0) if self._left else 0, len(data)
        while position < size:
            found = _SIZE_LINE.match(data, position)
            if found is None:
                return self._hold(data[position:])
            after, chunk_size = found.end(), int(found[1], 16)
            if chunk_size == 0:
                if data.startswith(b"\r\n", after):
                    return after + _CRLF - held
                return self._hold(data[position:])
            position = after + chunk_size + _CRLF
            if not data.startswith(b"\r\n", position - _CRLF):  # not all of it is there
                self._left = chunk_size + _CRLF
                position = self._after_chunk(data, after)
        return -1

    def _after_chunk(self, data: bytes, position: int) -> int:
        """Return where the chunk and its CRLF end, at most at the end of `data`."""
        size = len(data)
        end = position + self._left
        if end - 1 <= size:  # at least its CR is there
            at_cr = max(end - _CRLF, position)
            expected = b"\r\n"[at_cr - end :]
            if not expected.startswith(data[at_cr:end]):
                raise BadChunks("a chunk is not followed by CRLF")
        self._left = max(0, end - size)
        return min(end, size)

    def _hold(self, line: bytes) -> int:
        if not _BEGUN.fullmatch(line):
            raise BadChunks(f"bad chunk size, trailers, or no end after the last: {line[:40]!r}")
        self._line = line
        return -1
