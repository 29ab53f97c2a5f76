"""Keep a table of this web process as the store has it, in a thread of its own.

Fed by the store's notifications, and every few seconds by a look at what else has changed, should
one be lost. With the store away it tries again and again; what the table makes of that is the
table's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Generator
from math import inf
from time import monotonic
from typing import Protocol

from shared.errors import StoreUnavailable

_PAUSE_S = 0.5  # between tries while the store is away

log = logging.getLogger(__name__)


class Table(Protocol):
    """What is kept as the store has it. Only the following thread calls these."""

    def hear(self, changed: Collection[str]) -> None:
        """Read again what has these ids, because it changed.

        Raises:
            StoreUnavailable: nothing is forgotten.
        """

    def refresh(self) -> None:
        """Read again whatever may have changed unheard.

        Raises:
            StoreUnavailable: nothing is forgotten.
        """

    def lose(self) -> str:
        """Hear that the store does not answer; return what goes on meanwhile, for the log."""


class FollowingStore:
    """Feeds one table.

    Args:
        name: of what the table holds, for the log and the thread.
        table: to be fed.
        changes: a method of the store, as `Store.changes`.
        refresh_s: between two such looks.
    """

    def __init__(
        self,
        name: str,
        table: Table,
        changes: Callable[[float], Generator[frozenset[str]]],
        *,
        refresh_s: float,
    ) -> None:
        self._name = name
        self._table = table
        self._changes = changes
        self._refresh_s = refresh_s
        self._tried = threading.Event()
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin to follow."""
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def close(self) -> None:
        """Stop following, at the next notification or refresh."""
        self._closed.set()

    def wait_for_first_try(self, timeout_s: float) -> None:
        """Block until the table was read once or could not be, at most `timeout_s`."""
        self._tried.wait(timeout_s)

    def _run(self) -> None:
        told = False
        while not self._closed.is_set():
            try:
                for _ in self._feed():
                    told = False
            except StoreUnavailable as error:
                meanwhile = self._table.lose()
                if not told:
                    log.warning("%s; %s", error, meanwhile)
                told = True
            except Exception:  # a record that cannot be read must not end this
                log.exception("%s not refreshed; trying again", self._name)
            self._tried.set()
            self._closed.wait(_PAUSE_S)

    def _feed(self) -> Generator[None]:
        """Feed the table as long as the store answers; yield whenever it has."""
        refreshed_at = -inf
        for changed in self._changes(self._refresh_s):
            if self._closed.is_set():
                return
            if changed:
                self._table.hear(changed)
            if not changed or monotonic() - refreshed_at > self._refresh_s:
                self._table.refresh()
                refreshed_at = monotonic()
            self._tried.set()
            yield
