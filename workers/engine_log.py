"""What one engine says: its log, read as it grows and passed on to the store without secrets."""

from __future__ import annotations

from contextlib import suppress

from shared.store import Store
from workers.log_tail import LogTail
from workers.redaction import blotted, secrets_in
from workers.run_directory import RunDirectory
from workers.run_facts import RunFacts

LINES_READ_FOR_CAUSE = 1_000  # vLLM's tracebacks are long, and the first of them has the cause


class EngineLog:
    """The log of an engine's last run. Not thread-safe."""

    def __init__(self, instance_id: str, directory: RunDirectory, facts: RunFacts) -> None:
        self.last_lines: list[str] = []
        self._instance_id = instance_id
        self._facts = facts
        self._tail = LogTail(directory, self._blotted, facts.run)
        self._secrets: frozenset[str] | None = None  # those it was started with; None: not read yet
        self._unsent: list[str] = []  # read, and not in the store yet

    def begin(self, run: int) -> None:
        """Go over to the log of a run that begins."""
        self._tail.begin(run)
        self._secrets = None
        self.last_lines = []

    def read(self, *, to_the_end: bool = False) -> list[str]:
        """Return the lines that are new.

        Args:
            to_the_end: nobody writes any more: all of them, the last one without an end too.
        """
        lines = self._tail.read_to_the_end() if to_the_end else self._tail.read()
        if lines:
            self._unsent += lines
            self.last_lines = [*self.last_lines, *lines][-LINES_READ_FOR_CAUSE:]
        return lines

    def pass_on(self, store: Store) -> None:
        """Add what was read to the log in the store.

        Raises:
            StoreUnavailable: it goes with what comes next.
        """
        if self._unsent:
            store.append_log(self._instance_id, self._tail.number, self._unsent)
            self._unsent = []
            with suppress(OSError):  # a full disk: at worst the next worker passes them on again
                self._tail.remember()

    def pass_on_again(self, store: Store) -> None:
        """Have it read again, where the store has nothing of it (any more)."""
        if not store.log(self._instance_id, self._tail.number, 1):
            self._tail.begin_again()

    def close(self) -> None:
        """Let go of its file."""
        self._tail.close()

    def _blotted(self, line: str) -> str:
        if self._secrets is None and (launch := self._facts.launch):
            env = launch["env"]
            self._secrets = secrets_in(env if isinstance(env, dict) else {})
        return blotted(line, self._secrets or ())
