"""Why an engine ended, as an operator wants to read it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an engine ended."""

    code: str  # short and lasting: programs compare it; docs/causes.md lists all
    reason: str  # one line: how it ended, and the log's own words
    advice: str = ""  # one line: what to change, where known
    permanent: bool = False  # the next start would end the same way: it is not tried again
