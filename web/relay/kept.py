"""What comes of a long body before a thread has its request: in a file, so that no thread waits."""

from __future__ import annotations

from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from gunicorn.http.unreader import SocketUnreader

if TYPE_CHECKING:
    import socket

    from web.relay.relay import Relay

MOST_OF_ALL = 4 * 1024**3
"""Bytes on the disk of all bodies still to come; beyond that a thread waits for the rest."""


class Kept:
    """A file without a name, gone with this process; of one request, or of the next one, too."""

    def __init__(self, relay: Relay, missing: int) -> None:
        """Begin with nothing.

        Args:
            relay: on whose loop it is filled and closed.
            missing: bytes of the request that are still to come.

        Raises:
            OSError: no descriptor is left.
        """
        self._relay = relay
        self._file = TemporaryFile(buffering=0)  # noqa: SIM115 - see `close`
        self._size = 0
        self.missing = missing

    @property
    def is_enough(self) -> bool:
        """Whether a thread may have it: it is whole, or there is no room for more like it."""
        return self.missing <= 0 or self._relay.kept > MOST_OF_ALL

    def write(self, data: bytes) -> None:
        """Take more.

        Raises:
            OSError: the disk is full.
        """
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self._size += len(data)
        self._relay.kept += len(data)
        self.missing -= len(data)

    def rewind(self) -> None:
        """Begin to read it."""
        self._file.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Return what comes next of it, at most `size` bytes; all of the rest without that."""
        return self._file.read(size)

    def close(self) -> None:
        """Forget it; harmless to repeat."""
        self._file.close()
        self._relay.kept -= self._size
        self._size = 0


class KeptFirst(SocketUnreader):  # type: ignore[misc]
    """gunicorn's reader of a connection, of which part was read already."""

    def __init__(self, connection: socket.socket, kept: Kept) -> None:
        super().__init__(connection)
        self._kept = kept

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next piece."""
        size = min(max(size_hint or 0, self.mxchunk), self.max_body_chunk)
        return self._kept.read(size) or super().chunk(size_hint)
