"""What the demo shows: steps, a progress bar that redraws itself on a terminal."""

from __future__ import annotations

import shutil
import sys
from time import monotonic

from workers.stages import STAGES

_BAR = 28
_SHARE = {
    "launch": (0.0, 0.25),
    "configure": (0.25, 0.45),
    "initialize": (0.45, 0.7),
    "download": (0.7, 0.7),
    "weights": (0.7, 0.8),
    "compile": (0.8, 0.85),
    "warm-up": (0.85, 0.97),
    "ready": (0.97, 1.0),
}
"""From where to where each stage fills the bar: shares of time of a small model on a CPU."""

assert tuple(_SHARE) == STAGES


class Screen:
    """Writes to a terminal or a pipe."""

    def __init__(self) -> None:
        self._began = monotonic()
        self._redraws = sys.stdout.isatty()
        self._last = ""

    def step(self, text: str) -> None:
        """Announce the next step, with the time since the demo began."""
        self._write(f"\n[{monotonic() - self._began:5.1f} s] {text}\n")

    def line(self, text: str) -> None:
        """Write one line."""
        self._write(f"          {text}\n")

    def words(self, text: str) -> None:
        """Write text as it comes, without a line's end."""
        self._write(text)

    def progress(self, status: str, stage: str, progress: float | None, seconds: float) -> None:
        """Draw how far a start is: redrawn in place on a terminal, else a line for each change."""
        done = 1.0 if status == "running" else _filled(stage, progress)
        bar = "█" * round(done * _BAR) + "░" * (_BAR - round(done * _BAR))
        percent = "" if progress is None else f" {progress:.0%}"
        state = f"{status}: {stage}{percent}" if stage else status
        if self._redraws:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r          {bar} {state:<24} {seconds:5.1f} s"[:width])
        elif state != self._last:
            self.line(f"{bar} {state:<24} {seconds:5.1f} s")
        self._last = state

    def progress_done(self) -> None:
        """End the bar's line."""
        if self._redraws:
            self._write("\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _filled(stage: str, progress: float | None) -> float:
    begin, end = _SHARE.get(stage, (0.0, 0.0))
    return begin + (end - begin) * (progress or 0.0)
