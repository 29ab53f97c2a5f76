"""Callers that never stop asking, and count what they get."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

import requests

from tests.faults.ground import Ground

_CALLERS = 2
_PAUSE_S = 0.02


@dataclass(slots=True)
class Traffic:
    """What callers got so far."""

    statuses: list[int] = field(default_factory=list)  # 0: no answer
    slowest_s: float = 0.0

    @property
    def failed(self) -> int:
        """How many requests were not answered with 200."""
        return sum(status != 200 for status in self.statuses)

    @property
    def failed_percent(self) -> float:
        """How many of a hundred requests were not answered with 200."""
        return 100.0 * self.failed / max(1, len(self.statuses))


@contextmanager
def traffic(ground: Ground, *instance_ids: str) -> Iterator[Traffic]:
    """Send requests to instances through the proxy until the block ends, over new connections."""
    seen, over = Traffic(), threading.Event()

    def ask(instance_id: str) -> None:
        while not over.wait(_PAUSE_S):
            begun = monotonic()
            try:
                url = f"{ground.fleet.base}/proxy/{instance_id}/v1/models"
                status = requests.get(url, timeout=30).status_code
            except requests.RequestException:
                status = 0
            seen.statuses.append(status)
            seen.slowest_s = max(seen.slowest_s, monotonic() - begun)

    callers = [
        threading.Thread(target=ask, args=(instance_id,))
        for instance_id in instance_ids
        for _ in range(_CALLERS)
    ]
    for caller in callers:
        caller.start()
    try:
        yield seen
    finally:
        over.set()
        for caller in callers:
            caller.join()
