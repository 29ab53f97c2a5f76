"""Log lines in the shapes of vLLM 0.32: INFO and ERROR on stdout, everything else on stderr."""

import os
import time

STDOUT = 1
STDERR = 2


class Log:
    """The log of one process of the tree; every call is one write, so lines never interleave."""

    def __init__(self, process: str) -> None:
        """Prefix lines with `process` as vLLM does: `APIServer`, `EngineCore` or `Worker`."""
        self._prefix = f"({process} pid={os.getpid()})"

    def info(self, source: str, message: str) -> None:
        """Log `message` as from `source`, a vLLM file and line such as `core.py:133`."""
        write_all(STDOUT, self.line("INFO", source, message))

    def error(self, source: str, message: str) -> None:
        """Log each line of `message` with its own prefix, as vLLM logs tracebacks."""
        lines = (self.line("ERROR", source, line) for line in message.splitlines())
        write_all(STDOUT, b"".join(lines))

    def line(self, level: str, source: str, message: str) -> bytes:
        """Return one line with its newline, not yet written."""
        now = time.strftime("%m-%d %H:%M:%S")
        return f"{self._prefix} {level} {now} [{source}] {message}\n".encode()


def plain(text: str) -> None:
    """Write `text` to stderr without a prefix, as uvicorn, tqdm and tracebacks of vLLM arrive."""
    write_all(STDERR, f"{text}\n".encode())


def write_all(descriptor: int, data: bytes) -> None:
    """Write `data`, waiting while a pipe is full; give up silently once its reader is gone.

    An engine outlives whoever reads its log, so a lost reader must not end it.
    """
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except OSError:
            return
