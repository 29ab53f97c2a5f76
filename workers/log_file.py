"""An engine's log on its node's disk: of bounded size, and never in the engine's way.

Whoever writes hands lines over and goes on; a thread brings them to the disk. Where that is slow,
full or hung, and where an engine floods its log for longer than a moment, lines are left out, the
oldest ones first, so that the last words before a crash are kept whatever came before them.

Standard library only: see workers.shim.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from pathlib import Path
from time import monotonic

FILE_BYTES = 16 * 2**20  # per file; of each run two are kept
_BURST_BYTES = 32 * 2**20  # at any speed: the start of the most talkative engine
_BYTES_PER_S = 4 * 2**20  # for as long as it likes; more would wear the disk out, and be of no use
_WAITING_BYTES = 4 * 2**20  # not yet on disk
_LINE_BYTES = 2**16  # a line without end is taken in pieces of this size
_CLOSES_S = 10.0  # for what still waits, at the end; a disk that hangs must not keep the shim


class LogFile:
    """An append-only file and its predecessor. One thread may write.

    Args:
        path: of the newest part.
        older: where the part before it goes.
    """

    def __init__(self, path: Path, older: Path) -> None:
        self._path = path
        self._older = older
        self._file: int | None = None
        self._size = 0
        self._begun = b""  # of a line whose end has not come
        self._waiting: deque[bytes] = deque()  # whole lines, but for those without end
        self._waiting_bytes = 0
        self._left_out = 0  # bytes, since the last note of it
        self._in_line = False  # what was written last goes on in the next piece
        self._changed = threading.Condition()
        self._closing = False
        self._resting = False  # the thread has nothing to write
        self._allowance = float(_BURST_BYTES)  # bytes
        self._allowed_at = monotonic()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Take `data` over; waits for nobody."""
        data = self._begun + data
        # tqdm redraws its bars with a carriage return
        ends = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if ends == 0 and len(data) > _LINE_BYTES:
            ends = len(data)
        self._begun = data[ends:]
        if ends:
            self._put(data[:ends])

    def settle(self, timeout_s: float) -> None:
        """Wait until all that was written is on the disk, at most `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._resting and not self._waiting, timeout_s)

    def close(self) -> None:
        """Bring what waits to the disk, a line without an end too; in seconds, or not at all."""
        if self._begun:
            self._put(self._begun)
            self._begun = b""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(_CLOSES_S)

    def _put(self, lines: bytes) -> None:
        with self._changed:
            self._waiting.append(lines)
            self._waiting_bytes += len(lines)
            while self._waiting_bytes > _WAITING_BYTES:
                self._leave_out()
            if len(self._waiting) == 1:  # else it knows
                self._changed.notify()

    def _leave_out(self) -> None:
        oldest = self._waiting.popleft()
        # A line that goes on in the next piece goes as a whole: half a line may be half a secret.
        while self._waiting and not oldest.endswith((b"\n", b"\r")):
            oldest += self._waiting.popleft()
        self._waiting_bytes -= len(oldest)
        self._left_out += len(oldest)

    # in a thread of its own

    def _run(self) -> None:
        while (lines := self._next()) is not None:
            try:
                self._append(lines)
            except OSError:  # a full disk: it may have room again
                with self._changed:
                    self._left_out += len(lines)

    def _next(self) -> bytes | None:
        """Return what to write next; wait until there is something, and until it may be written."""
        with self._changed:
            while True:
                now = monotonic()
                self._allowance += (now - self._allowed_at) * _BYTES_PER_S
                self._allowance = min(self._allowance, float(_BURST_BYTES))
                self._allowed_at = now
                if not self._waiting:
                    if self._closing:
                        return None
                    self._resting = True
                    self._changed.notify_all()
                    self._changed.wait()
                    self._resting = False
                elif self._allowance > 0 or self._closing:
                    lines = b"".join([self._note(), *self._waiting])
                    self._waiting.clear()
                    self._waiting_bytes = 0
                    self._allowance -= len(lines)
                    self._in_line = not lines.endswith((b"\n", b"\r"))
                    return lines
                else:
                    self._changed.wait(-self._allowance / _BYTES_PER_S)

    def _note(self) -> bytes:
        left_out, self._left_out = self._left_out, 0
        if left_out == 0:
            return b""
        note = b"[%d bytes left out: more than the log can take]\n" % left_out
        return b"\n" + note if self._in_line else note

    def _append(self, lines: bytes) -> None:
        if self._file is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._file = os.open(self._path, flags, 0o600)
            self._size = os.fstat(self._file).st_size
        view = memoryview(lines)
        while view:
            if self._size >= FILE_BYTES:
                self._path.replace(self._older)
                os.close(self._file)
                self._file = None
                self._append(bytes(view))
                return
            written = os.write(self._file, view[: FILE_BYTES - self._size])
            self._size += written
            view = view[written:]
