"""A process of the simulation, as the one that began it sees it and as it sees itself."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

from tests.scale.meter import Measured


@dataclass(frozen=True, slots=True)
class Part:
    """What it is told, and where it says what it measured."""

    over: Event
    warm: Event  # set once what is measured counts
    end: Connection

    def tell(self, measured: Measured, *, late_s: float = 0.0) -> None:
        """Say what was measured, and how late the process was, at most."""
        self.end.send((measured, late_s))
        self.end.close()
