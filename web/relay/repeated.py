"""Heads that repeat. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LENGTH_LINE = re.compile(
    rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*(?=\r\n|\Z)", re.IGNORECASE
)
_MAX_DIGITS = 15


@dataclass(frozen=True, slots=True)
class Repeated:
    """A head to recognise again when nothing but the digits of its Content-Length differ.

    A client's requests over one connection hardly differ otherwise, nor do an engine's answers, so
    that reading a head again is two comparisons.
    """

    before: bytes
    after: bytes
    has_length: bool

    @classmethod
    def of(cls, head: bytes) -> Repeated:
        """Return how to recognise `head`."""
        found = _LENGTH_LINE.search(head)
        if found is None:
            return cls(head, b"", has_length=False)
        return cls(head[: found.start(1)], head[found.end(1) :], has_length=True)

    def length_in(self, head: bytes) -> int | None:
        """Return the Content-Length in `head` if it is the same head, 0 for none; else None."""
        before, after = self.before, self.after
        if not self.has_length:
            return 0 if head == before else None
        if head.startswith(before) and head.endswith(after):
            digits = head[len(before) : len(head) - len(after)]
            if digits.isdigit() and len(digits) <= _MAX_DIGITS:
                return int(digits)
        return None
