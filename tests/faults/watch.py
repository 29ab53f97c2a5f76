"""What is looked at all the time while a row runs: the control API, and how many trees live."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import requests

from tests.faults import sight
from tests.faults.ground import Ground

_EVERY_S = 0.1


@dataclass(slots=True)
class Watch:
    """What was seen so far."""

    answers: list[tuple[int, float]] = field(default_factory=list)  # status, seconds
    stalled_s: list[float] = field(default_factory=list)  # of those asked while Redis said nothing
    odd: list[str] = field(default_factory=list)  # answers that are neither 200 nor a clean 503
    doubled: list[str] = field(default_factory=list)  # instances of which two trees were seen
    over: threading.Event = field(default_factory=threading.Event)

    def p99_s(self) -> float:
        """Return the 99th percentile of the seconds of good answers."""
        good = sorted(took for status, took in self.answers if status == 200)
        return good[min(len(good) - 1, int(len(good) * 0.99))] if good else 0.0

    def slowest_refusal_s(self) -> float:
        """Return the slowest 503, or answer of any kind while Redis said nothing."""
        refused = [took for status, took in self.answers if status == 503]
        return max(refused + self.stalled_s, default=0.0)


@contextmanager
def watching(ground: Ground) -> Iterator[Watch]:
    """Look at `ground` from threads of its own until the block ends."""
    watch = Watch()
    threads = [
        threading.Thread(target=_ask, args=(ground, watch)),
        threading.Thread(target=_count, args=(ground, watch)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield watch
    finally:
        watch.over.set()
        for thread in threads:
            thread.join()


def _ask(ground: Ground, watch: Watch) -> None:
    with requests.Session() as caller:
        while not watch.over.wait(_EVERY_S):
            begun, stalled = monotonic(), ground.stalled
            try:
                answer = caller.get(f"{ground.fleet.base}/instances", timeout=30)
            except requests.RequestException as error:
                watch.odd.append(f"{type(error).__name__}")
                continue
            took = monotonic() - begun
            if stalled:
                watch.stalled_s.append(took)
            else:
                watch.answers.append((answer.status_code, took))
            if not _is_clean(answer):
                watch.odd.append(f"{answer.status_code} {answer.text[:80]}")


def _is_clean(answer: Any) -> bool:
    if answer.status_code == 200:
        return True
    try:
        return bool(answer.status_code == 503 and answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return False


def _count(ground: Ground, watch: Watch) -> None:
    while not watch.over.wait(_EVERY_S):
        for instance_id, pids in sight.engines(ground.folder).items():
            if len(pids) > 1:
                watch.doubled.append(f"{instance_id}: {pids}")
