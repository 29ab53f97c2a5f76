"""One engine's start as it goes on: how far it is, since when, and what it passed on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shared.domain.eta import PastStart, Reached, expected_seconds
from workers.stages import Load, follow, progressed, with_downloaded, with_moved


class Loading:
    """One start of one engine. Times are seconds since its spawn.

    Args:
        load: how far another worker has seen it come.
        at: when that was.
    """

    def __init__(self, load: Load | None = None, at: float = 0.0) -> None:
        self.load = load or Load()
        self.past: tuple[PastStart, ...] | None = None  # of the same kind; None: not asked yet
        self._on_disk: int | None = None  # bytes of the model, at the first look
        self._began: dict[str, float] = {}
        self._at = at  # when it came so far

    def read(self, lines: Iterable[str], at: float) -> bool:
        """Follow the load in new log lines; return whether it has gone on."""
        return self._reach(follow(self.load, lines), at)

    def moved(self, total: int, at: float) -> bool:
        """Note how many bytes its processes have read and written; return as `read` does."""
        return self._reach(with_moved(self.load, total), at)

    def downloaded(self, total: int, at: float) -> bool:
        """Note how much of the model is on the disk; return as `read` does."""
        if self._on_disk is None:
            self._on_disk = total
        return self._reach(with_downloaded(self.load, total - self._on_disk), at)

    @property
    def stages(self) -> Mapping[str, float]:
        """When each stage began, of those whose beginning was seen."""
        return dict(self._began)

    def expected(self, at: float) -> float | None:
        """Return when it will be ready, judged by the past; None if nobody can say."""
        reached = Reached(stage=self.load.stage, progress=self.load.progress, at=self._at)
        return expected_seconds(self.past or (), reached, at)

    def _reach(self, load: Load, at: float) -> bool:
        before, self.load = self.load, load
        if load.stage != before.stage:
            self._began[load.stage] = at
        if (load.stage, load.progress) != (before.stage, before.progress):
            self._at = at
        return progressed(before, load)
