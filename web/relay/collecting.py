"""When a request that is not plain can go to a thread, so that no thread waits for a caller. Pure.

A thread that waits for slow bytes is one that answers nobody: the event loop waits instead, for the
whole request where it is small, for enough of it to show a caller that really sends otherwise.
"""

from __future__ import annotations

import re

from web.relay.chunks import BadChunks, Chunks

ENOUGH = 64 * 1024
"""Bytes of a body after which its caller counts as one that really sends."""

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*(?=\r\n)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*(?=\r\n)", re.IGNORECASE)
_EXPECTS = re.compile(rb"\r\nexpect:", re.IGNORECASE)
_EMPTY_LINE = 4


class Collecting:
    """Follows the body of one request until a thread may have it."""

    def __init__(self, data: bytes, head_end: int, max_body: int) -> None:
        """Begin with what was read.

        Args:
            data: the request so far.
            head_end: offset of the empty line after the head; -1 if the head is malformed already.
            max_body: bytes; a longer body is refused without being read.
        """
        self.is_whole = True  # a thread need not wait for the caller at all
        self._body_at = head_end + _EMPTY_LINE
        self._followed = self._body_at
        self._length = 0
        self._chunks: Chunks | None = None
        if head_end < 0:
            return
        head = data[: head_end + 2]
        lengths = _LENGTH.findall(head)
        if _EXPECTS.search(head):
            self.is_whole = False  # it sends its body once a thread tells it to
        elif _CHUNKED.search(head) and not lengths:
            self._chunks = Chunks()
            self.is_whole = False
        elif len(lengths) == 1:
            length = int(lengths[0])
            self._length = length if length <= max_body else 0
            self.is_whole = self._length == 0

    def is_enough(self, data: bytes) -> bool:
        """Return whether a thread may have the request, of which `data` is all that came."""
        if self._chunks is not None:
            return self._is_enough_chunked(data)
        if self._length:
            here = len(data) - self._body_at
            self.is_whole = here >= self._length
            return self.is_whole or here >= ENOUGH
        return True

    def _is_enough_chunked(self, data: bytes) -> bool:
        piece, self._followed = data[self._followed :], len(data)
        try:
            self.is_whole = self._chunks is not None and self._chunks.end_in(piece) >= 0
        except BadChunks:
            return True  # the parser there says what it is
        return self.is_whole or len(data) - self._body_at >= ENOUGH
