"""The one error a person sees: a line that says what failed, and what is known about it."""

from collections.abc import Sequence
from pathlib import Path


class ProvisionError(Exception):
    """Something could not be made; the message says what, and what to do where that is known."""

    def __init__(self, message: str, *, tail: Sequence[str] = (), log: Path | None = None) -> None:
        super().__init__(message)
        self.tail = tuple(tail)  # the last lines of the command that failed
        self.log = log  # where all its lines are


class UsageError(ProvisionError):
    """The command was given something it does not know; exit status 2."""
