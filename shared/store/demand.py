"""What web processes say of the requests they have for models of the catalogue.

Each says it about once a second, and it is forgotten soon after it has ended without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests for one model."""

    running: int = 0  # with an engine
    waiting: int = 0  # for a replica

    def __add__(self, other: Demand) -> Demand:
        """Return both together."""
        return Demand(self.running + other.running, self.waiting + other.waiting)


@dataclass(frozen=True, slots=True)
class Places:
    """Who may wait for one model."""

    here: int  # of those that the web process said
    elsewhere: int  # in all others together


class Demands(Protocol):
    """Adds up what web processes say: the part of the `Store` promise that scaling stands on."""

    def tell_demand(
        self,
        holder: str,
        demand: Mapping[str, Demand],
        seconds: float,
        *,
        most: int | None = None,
        sure: Mapping[str, int] | None = None,
    ) -> dict[str, Places]:
        """Say what the web process `holder` has now, by the catalogue's names; {}: nothing.

        It replaces what it said before, and is forgotten after `seconds`.

        Args:
            holder: who says it.
            demand: what it has.
            seconds: how long it is kept.
            most: who may wait for one model, in all web processes together; first come, first
                served. None: all.
            sure: how many of those who wait have their place already, which is not taken back.

        Returns:
            The line for each model. Only those who may wait count from then on.
        """

    def demand(self, *, without: str = "") -> dict[str, Demand]:
        """Return what all web processes have together; but for the one called `without`."""
