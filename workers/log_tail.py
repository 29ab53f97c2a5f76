"""Follow an engine's log from where the last reader stopped, across rotation and restarts."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import BinaryIO

from workers.run_directory import RunDirectory

_BYTES_PER_READ = 256 * 1024  # a flood is skipped, not chased
_LINE_CHARS = 8_192
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


class LogTail:
    """Reads new lines of one engine's log; remembers in its folder how far it got."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._file: BinaryIO | None = None
        self._rest = b""
        shipped = run.read("shipped") or {}
        self._resume = (shipped.get("inode"), int(shipped.get("offset", 0)))

    def read(self) -> list[str]:
        """Return the lines written since the last call, cleaned of control characters."""
        self._open()
        if self._file is None:
            return []
        self._skip_flood(self._file)
        data = self._file.read(_BYTES_PER_READ)
        if not data and self._rotated(self._file):
            # What was written between that read and the rotation is still to come.
            data = self._file.read(_BYTES_PER_READ)
            if not data:
                self.close()
                return self.read()
        # tqdm redraws its bars with a carriage return; each state is a line to us
        *lines, self._rest = re.split(rb"[\r\n]+", self._rest + data)
        if len(self._rest) > _LINE_CHARS:
            lines.append(self._rest)
            self._rest = b""
        return [cleaned for line in lines if (cleaned := clean(line))]

    def read_to_the_end(self) -> list[str]:
        """Return all that is left, a last line without an end too: nobody writes any more."""
        lines: list[str] = []
        while more := self.read():
            lines += more
        rest, self._rest = clean(self._rest), b""
        return [*lines, rest] if rest else lines

    def remember(self) -> None:
        """Note how far the lines have been passed on."""
        if self._file is not None:
            # A line begun in the file before a rotation cannot be gone back to.
            offset = max(0, self._file.tell() - len(self._rest))
            inode = os.fstat(self._file.fileno()).st_ino
            self._run.write("shipped", {"inode": inode, "offset": offset})

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        if self._file is not None:
            return
        (inode, offset), self._resume = self._resume, (None, 0)
        # Written before a rotation that nobody watched: the old file first.
        for path in (self._run.old_log, self._run.log):
            with suppress(FileNotFoundError):
                file = path.open("rb", buffering=0)
                if os.fstat(file.fileno()).st_ino == inode:
                    file.seek(offset)
                elif path == self._run.old_log:
                    file.close()
                    continue
                self._file = file
                return
        self._resume = (inode, offset)  # no log yet

    def _skip_flood(self, file: BinaryIO) -> None:
        behind = os.fstat(file.fileno()).st_size - file.tell()
        if behind > 4 * _BYTES_PER_READ:
            file.seek(-_BYTES_PER_READ, os.SEEK_END)
            self._rest = b"[lines skipped: the engine writes faster than its log is kept]\n"

    def _rotated(self, file: BinaryIO) -> bool:
        try:
            return os.fstat(file.fileno()).st_ino != self._run.log.stat().st_ino
        except FileNotFoundError:
            return False


def clean(line: bytes) -> str:
    """Return a log line as text: no control characters, not longer than a screen of text."""
    return _CONTROL.sub("", line.decode(errors="replace")).rstrip()[:_LINE_CHARS]
