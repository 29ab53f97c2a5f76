"""One engine's load, as it is watched: by its log, its files, and what its processes move."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from time import monotonic

from workers.downloads import downloaded, hub_folder
from workers.loading import Loading
from workers.process_io import bytes_moved

_IO_EVERY_S = 5.0  # between looks at reading and writing: each is a look at all processes


class WatchedLoad:
    """Says how far a load is, and since when it has stood still."""

    def __init__(self, loading: Loading | None = None) -> None:
        self.loading = loading or Loading()
        self.last_progress_at = monotonic()
        self._io_seen_at = -math.inf

    def hear(self, lines: Sequence[str], age_s: float) -> None:
        """Follow it in new lines of the engine's log.

        Args:
            lines: of the log.
            age_s: seconds since the engine was spawned.
        """
        self._note(goes_on=self.loading.read(lines, age_s))

    def look(
        self, launch: Mapping[str, object], members: Callable[[], Collection[int]], age_s: float
    ) -> None:
        """Look, where it is time, for what the log does not tell.

        Args:
            launch: what the engine was started with.
            members: finds the pids of its processes, which takes a look at all there are.
            age_s: seconds since it was spawned.
        """
        if monotonic() - self._io_seen_at <= _IO_EVERY_S:
            return
        self._io_seen_at = monotonic()
        self._note(goes_on=self.loading.moved(bytes_moved(members()), age_s))
        if folder := _hub_folder(launch):
            self._note(goes_on=self.loading.downloaded(downloaded(folder), age_s))

    def _note(self, *, goes_on: bool) -> None:
        if goes_on:
            self.last_progress_at = monotonic()


def _hub_folder(launch: Mapping[str, object]) -> Path | None:
    command, env = launch.get("command"), launch.get("env")
    if not isinstance(command, list) or not isinstance(env, dict):
        return None
    return hub_folder(command, env)
