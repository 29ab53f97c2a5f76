"""Where a chunked body ends (RFC 9112, section 7.1). Pure.

The relay passes chunks on as they are, so it must know to the byte where the body ends, and that
nobody else can read it otherwise: sizes are plain hexadecimal, lines end in CRLF, and there are no
trailers.
"""

from __future__ import annotations

import re

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t -~\x80-\xff]*)?")
_MAX_LINE = 4096  # bytes
_CRLF = 2


class BadChunks(ValueError):
    """The body is not chunked as it must be."""


class Chunks:
    """Follows one chunked body, piece by piece as it comes."""

    __slots__ = ("_left", "_line")

    def __init__(self) -> None:
        self._left = 0  # bytes of the chunk under way, and its CRLF, that are still to come
        self._line = b""  # the beginning of a size line that is not complete yet

    def end_in(self, piece: bytes) -> int:
        """Follow `piece`; return the offset in it at which the body ends, or -1 if it goes on.

        Raises:
            BadChunks: says what is wrong.
        """
        held = len(self._line)
        data = self._line + piece if held else piece
        self._line = b""
        size, position = len(data), 0
        while True:
            if self._left:
                position = self._after_chunk(data, position)
            if position == size:
                return -1
            end = data.find(b"\r\n", position)
            if end < 0:
                return self._hold(data[position:])
            found = _SIZE_LINE.fullmatch(data, position, end)
            if found is None:
                raise BadChunks(f"bad chunk size {data[position:end][:40]!r}")
            chunk_size = int(found[1], 16)
            after = end + _CRLF
            if chunk_size:
                position, self._left = after, chunk_size + _CRLF
            elif size < after + _CRLF:
                return self._hold(data[position:])
            elif data[after : after + _CRLF] != b"\r\n":
                raise BadChunks("trailers, or no empty line after the last chunk")
            else:
                return after + _CRLF - held

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
        if len(line) > _MAX_LINE:
            raise BadChunks(f"a chunk size line of over {_MAX_LINE} bytes")
        self._line = line
        return -1
