"""Follow an engine's log from where the last reader stopped, across rotation and restarts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from workers.run_directory import RunDirectory

_BYTES_PER_READ = 256 * 1024  # a flood is skipped, not chased
_LINE_CHARS = 8_192
_LONGEST_SECRET = 1_024  # one cut in two at a line's end would not be known as one
_SKIPPED = "[lines skipped: the engine writes faster than its log is kept]"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


class LogTail:
    """Reads new lines of one engine's log; remembers in its folder how far it got.

    Args:
        run: the engine's folder.
        blot: takes secrets out of a line, before it is cut to length.
        number: of the run whose log to read.
    """

    def __init__(
        self, run: RunDirectory, blot: Callable[[str], str] = str, number: int = 1
    ) -> None:
        self._run = run
        self._number = number
        self._blot = blot
        self._file: BinaryIO | None = None
        self._rest = b""
        self._in_long_line = False  # its beginning has been passed on, the rest is left out
        self._resume = self._shipped()

    def begin(self, number: int) -> None:
        """Read the log of this run from now on, where it is another."""
        if number != self._number:
            self.close()
            self._number = number
            self._rest = b""
            self._in_long_line = False
            self._resume = self._shipped()

    def begin_again(self) -> None:
        """Read this run's log from its beginning, or from where the last rotation left it."""
        self.close()
        self._rest = b""
        self._in_long_line = False
        self._resume = (None, 0)

    @property
    def number(self) -> int:
        """The run whose log is read."""
        return self._number

    def read(self) -> list[str]:
        """Return the lines written since the last call, cleaned of control characters."""
        return self._read() or []

    def read_to_the_end(self) -> list[str]:
        """Return all that is left, a last line without an end too: nobody writes any more."""
        lines: list[str] = []
        while (more := self._read()) is not None:
            lines += more
        rest, self._rest = self._rest, b""
        return [*lines, *self._cleaned([rest])]

    def _read(self) -> list[str] | None:
        """Return the next lines; None where nothing was written."""
        self._open()
        if self._file is None:
            return None
        skipped = self._skip_flood(self._file)
        data = self._file.read(_BYTES_PER_READ)
        if not data and self._rotated(self._file):
            # What was written between that read and the rotation is still to come.
            data = self._file.read(_BYTES_PER_READ)
            if not data:
                self.close()
                return self._read()
        if not data:
            return None
        # tqdm redraws its bars with a carriage return; each state is a line to us
        *lines, self._rest = re.split(rb"[\r\n]+", self._rest + data)
        if lines and self._in_long_line:
            del lines[0]
            self._in_long_line = False
        if self._in_long_line:
            self._rest = b""
        elif len(self._rest) > _LINE_CHARS + _LONGEST_SECRET:
            lines.append(self._rest)
            self._rest = b""
            self._in_long_line = True
        return [*([_SKIPPED] if skipped else []), *self._cleaned(lines)]

    def remember(self) -> None:
        """Note how far the lines have been passed on."""
        if self._file is not None:
            # A line begun in the file before a rotation cannot be gone back to.
            offset = max(0, self._file.tell() - len(self._rest))
            inode = os.fstat(self._file.fileno()).st_ino
            shipped = {"run": self._number, "inode": inode, "offset": offset}
            self._run.write("shipped", shipped)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _shipped(self) -> tuple[int | None, int]:
        shipped = self._run.read("shipped", self._number) or {}
        return shipped.get("inode"), int(shipped.get("offset", 0))

    def _cleaned(self, lines: list[bytes]) -> list[str]:
        return [cleaned for line in lines if (cleaned := clean(line, self._blot))]

    def _open(self) -> None:
        if self._file is not None:
            return
        (inode, offset), self._resume = self._resume, (None, 0)
        # Written before a rotation that nobody watched: the old file first.
        for path in (self._run.old_log(self._number), self._run.log(self._number)):
            with suppress(FileNotFoundError):
                file = path.open("rb", buffering=0)
                if os.fstat(file.fileno()).st_ino == inode:
                    file.seek(offset)
                elif path == self._run.old_log(self._number):
                    file.close()
                    continue
                self._file = file
                return
        self._resume = (inode, offset)  # no log yet

    def _skip_flood(self, file: BinaryIO) -> bool:
        behind = os.fstat(file.fileno()).st_size - file.tell()
        if behind <= 4 * _BYTES_PER_READ:
            return False
        file.seek(-_BYTES_PER_READ, os.SEEK_END)
        self._rest = b""
        self._in_long_line = True  # begun before: half a line could be half a secret
        return True

    def _rotated(self, file: BinaryIO) -> bool:
        try:
            return os.fstat(file.fileno()).st_ino != self._run.log(self._number).stat().st_ino
        except FileNotFoundError:
            return False


def clean(line: bytes, blot: Callable[[str], str] = str) -> str:
    """Return a log line as text: no control characters, not longer than a screen of text."""
    text = _CONTROL.sub("", line.decode(errors="replace"))[: _LINE_CHARS + _LONGEST_SECRET]
    return blot(text).rstrip()[:_LINE_CHARS]
