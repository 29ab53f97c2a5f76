"""Heads that repeat. Pure."""

from __future__ import annotations

import re

_LENGTH_LINE = re.compile(
    rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*(?=\r\n|\Z)", re.IGNORECASE
)
_MAX_DIGITS = 15
_USUAL = {b"%d" % length: length for length in range(10_000)}  # five times faster than int()


class Repeated:
    """A head to recognise again when nothing but the digits of its Content-Length differ.

    A client's requests over one connection hardly differ otherwise, nor do an engine's answers, so
    that reading a head again is two comparisons.
    """

    __slots__ = ("_after", "_before", "_end", "_is_counted", "_start")

    def __init__(self, head: bytes) -> None:
        """Remember `head`."""
        found = _LENGTH_LINE.search(head)
        self._is_counted = found is not None
        self._before = head if found is None else head[: found.start(1)]
        self._after = b"" if found is None else head[found.end(1) :]
        self._start = len(self._before)
        self._end = len(self._after)

    def length_in(self, head: bytes) -> int | None:
        """Return the Content-Length in `head` if it is the same head, 0 for none; else None."""
        if not self._is_counted:
            return 0 if head == self._before else None
        if head.startswith(self._before) and head.endswith(self._after):
            digits = head[self._start : len(head) - self._end]
            usual = _USUAL.get(digits)
            if usual is not None:
                return usual
            if digits.isdigit() and len(digits) <= _MAX_DIGITS:
                return int(digits)
        return None
