"""What is written down of an engine's last run: its start, why it is to end, how it ended.

The files are `workers.run_directory`'s, each by who knows: launch and stop by a worker, state and
exit by the shim.
"""

from __future__ import annotations

from contextlib import suppress
from time import time
from typing import Any

from shared.domain.instance import Exit, Status
from workers import process_tree
from workers.process_tree import Identity
from workers.run_directory import RunDirectory

STOPPED = str(Status.STOPPED)
BACKOFF = str(Status.BACKOFF)
_SHIM_WORDS = 4096  # bytes at the end of what a shim said


class RunFacts:
    """Facts of the last run only: the end of one is never taken for the end of the next."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory

    @property
    def launch(self) -> dict[str, Any] | None:
        """What the engine was last started with; None if it never was."""
        return self._directory.read("launch")

    @property
    def run(self) -> int:
        """The number of its last run; 0 before the first."""
        return int(str((self.launch or {}).get("run", 0)))

    @property
    def launched_s_ago(self) -> float | None:
        """Seconds since that start was announced, by a clock that may be set; None: never."""
        return self._directory.age_of("launch", time())

    @property
    def spawned(self) -> bool:
        """Whether its shim has written down that it spawned it."""
        return self._read("state") is not None

    @property
    def rebooted(self) -> bool:
        """Whether the machine has been started anew since the run began."""
        state = self._read("state")
        return state is not None and state["boot_id"] != process_tree.boot_id()

    @property
    def leader(self) -> Identity | None:
        """The engine's first process; None until it is spawned, or since another boot."""
        state = self._read("state")
        if state is None or self.rebooted:
            return None
        return Identity(state["pid"], state["start_time"])

    @property
    def stop_note(self) -> dict[str, str] | None:
        """Why it was told to end and what it is to become; None if it was not."""
        return self._read("stop")

    def note_stop(self, reason: str, outcome: str, cause: str) -> None:
        """Keep why it is told to end, with all that follows, in case this worker dies.

        Args:
            reason: in words.
            outcome: STOPPED or BACKOFF, what the instance is to become.
            cause: short code of it, of one that is to be started again.
        """
        note = {"reason": reason, "cause": cause, "outcome": outcome}
        with suppress(OSError):  # no folder, a full disk: it is to end all the same
            self._directory.write("stop", {"run": self.run, **note, "at": time()})

    @property
    def exit(self) -> Exit | None:
        """How the first process ended; None while it runs, or if its shim could not tell."""
        found = self._read("exit")
        return Exit(code=found["code"], signal=found["signal"], at=found["at"]) if found else None

    @property
    def over_at(self) -> int | None:
        """Ticks since boot: no process of it began later; None while it runs."""
        return (self._read("exit") or {}).get("over_at")

    @property
    def unseen(self) -> bool:
        """Whether nobody has written down that it began, or that it is not to."""
        return not any(self._read(name) for name in ("state", "exit", "stop"))

    @property
    def shim_words(self) -> str:
        """The last line that its shim had to say itself; "" for none."""
        try:
            said = self._directory.shim_log(self.run).read_bytes()[-_SHIM_WORDS:]
        except OSError:
            return ""
        lines = said.decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _read(self, name: str) -> dict[str, Any] | None:
        return self._directory.read(name, self.run)
