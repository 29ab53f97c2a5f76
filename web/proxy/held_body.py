"""The body of a request, kept until it is known where it goes: it says so itself.

What is long is kept in a file, which has no name and goes with this process.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from tempfile import SpooledTemporaryFile

from shared.errors import NoCapacity

_IN_MEMORY = 1024 * 1024  # bytes
_PIECE = 64 * 1024


class HeldBody:
    """A whole body, to be sent as often as it takes. Close it when done."""

    complete = True

    def __init__(self, pieces: Iterable[bytes]) -> None:
        """Read all of it.

        Raises:
            NoCapacity: there is no room for it on the disk.
            Exception: whatever `pieces` does.
        """
        self.length = 0  # bytes
        self._kept = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - see `close`
        try:
            for piece in pieces:
                self._keep(piece)
        except BaseException:
            self.close()
            raise

    def pieces(self, _engine: socket.socket | None = None) -> Iterator[bytes]:
        """Yield it from its beginning."""
        self._kept.seek(0)
        while piece := self._kept.read(_PIECE):
            yield piece

    def whole(self) -> bytes:
        """Return all of it."""
        self._kept.seek(0)
        return self._kept.read()

    def close(self) -> None:
        """Forget it."""
        self._kept.close()

    def _keep(self, piece: bytes) -> None:
        try:
            self._kept.write(piece)
        except OSError as error:
            raise NoCapacity(f"web process: no room to keep a request's body: {error}") from error
        self.length += len(piece)
