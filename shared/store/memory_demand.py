"""What web processes say of their requests, in this process's memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shared.store.demand import Demand, Places
from shared.store.memory_part import MemoryPart


class MemoryDemands(MemoryPart):
    """Keeps the `Demands` promise for the threads of one process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._told: dict[str, tuple[dict[str, Demand], float]] = {}  # and until when

    def tell_demand(
        self,
        holder: str,
        demand: Mapping[str, Demand],
        seconds: float,
        *,
        most: int | None = None,
        sure: Mapping[str, int] | None = None,
    ) -> dict[str, Places]:
        """Say what the web process `holder` has now, and return who may wait."""
        with self._lock:
            others = self.demand(without=holder)
            has_place = sure or {}
            lines = {}
            for model, one in demand.items():
                elsewhere = others.get(model, Demand()).waiting
                room = one.waiting if most is None else min(one.waiting, most - elsewhere)
                lines[model] = Places(max(has_place.get(model, 0), room), elsewhere)
            may = {m: Demand(one.running, lines[m].here) for m, one in demand.items()}
            self._told[holder] = may, self._clock() + seconds
            return lines

    def demand(self, *, without: str = "") -> dict[str, Demand]:
        """Return what all web processes have together; but for the one called `without`."""
        with self._lock:
            now, total = self._clock(), dict[str, Demand]()
            self._told = {name: told for name, told in self._told.items() if now < told[1]}
            for holder, (demand, _) in self._told.items():
                for model, one in demand.items() if holder != without else ():
                    total[model] = total.get(model, Demand()) + one
            return total
