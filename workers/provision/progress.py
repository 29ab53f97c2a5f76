"""Short lines for a person: elapsed seconds in place on a terminal, plain lines on a pipe."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

REWRITE_LINE = "\r\x1b[K"  # back to the first column, and erase what is there
ROOM_FOR_SECONDS = 9  # " … 3600 s": a line that wraps could not be rewritten in place


class Progress:
    """Say what is happening on `out`."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._in_place = out.isatty()

    def say(self, line: str) -> None:
        """Print one line, at once."""
        print(line, file=self._out, flush=True)

    @contextmanager
    def step(self, what: str) -> Iterator[Callable[[], None]]:
        """Show `what` while the block runs; the block calls the result about once a second."""
        if not self._in_place:
            self.say(f"{what} …")
            yield lambda: None
            return
        started = time.monotonic()
        line = what[: shutil.get_terminal_size().columns - ROOM_FOR_SECONDS]

        def show() -> None:
            seconds = time.monotonic() - started
            print(f"{REWRITE_LINE}{line} … {seconds:.0f} s", end="", file=self._out, flush=True)

        show()
        try:
            yield show
        finally:
            show()
            self.say("")
