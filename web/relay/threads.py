"""Connections whose requests need the application: served in threads, then given back."""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from gunicorn.workers.gthread import TConn

if TYPE_CHECKING:
    from web.relay.relay import Relay

Handle = Callable[[TConn], object]


class Threads:
    """Gives connections to threads, never so many uploads that nothing else finds one."""

    def __init__(
        self, relay: Relay, executor: Executor, size: int, handle: Handle, config: object
    ) -> None:
        """Run `handle`, gunicorn's, in `executor`, which has `size` threads."""
        self._relay = relay
        self._executor = executor
        self._handle = handle
        self._config = config
        self._most_uploads = max(1, size // 2)
        self._uploads = 0
        self._waiting: deque[_Job] = deque()  # uploads for which there is no thread yet
        self.busy = 0  # connections that are here

    def take(self, connection: socket.socket, unread: bytes, peer: object, is_whole: bool) -> None:
        """Serve the next request of a connection in a thread.

        Args:
            connection: nothing else reads or writes it.
            unread: what was already read of it.
            peer: its address.
            is_whole: the request is all in `unread`, so that the thread waits for nobody.
        """
        self.busy += 1
        job = _Job(connection, unread, peer, is_upload=not is_whole)
        if job.is_upload and self._uploads >= self._most_uploads:
            self._waiting.append(job)
        else:
            self._submit(job)

    def _submit(self, job: _Job) -> None:
        self._uploads += job.is_upload
        self._executor.submit(self._serve, job)

    def _serve(self, job: _Job) -> None:
        """Serve one request; runs in a thread."""
        unread, keep = b"", False
        try:
            _limit_waits(job.connection, self._relay.limits.body_timeout_s)
            served = TConn(self._config, job.connection, job.peer, job.connection.getsockname())
            served.init()
            served.parser.unreader.unread(job.unread)
            keep = bool(self._handle(served))
            unread = served.parser.unreader.take_buffered() if keep else b""
        finally:
            self._relay.loop.call_soon_threadsafe(self._served, job, unread, keep)

    def _served(self, job: _Job, unread: bytes, keep: bool) -> None:
        self.busy -= 1
        self._uploads -= job.is_upload
        while self._waiting and self._uploads < self._most_uploads:
            self._submit(self._waiting.popleft())
        if job.connection.fileno() >= 0:  # else the application closed it
            self._relay.adopt(job.connection, unread, ending=not keep)


class _Job:
    """One connection on its way through a thread."""

    __slots__ = ("connection", "is_upload", "peer", "unread")

    def __init__(
        self, connection: socket.socket, unread: bytes, peer: object, *, is_upload: bool
    ) -> None:
        self.connection = connection
        self.unread = unread
        self.peer = peer
        self.is_upload = is_upload


def _limit_waits(connection: socket.socket, seconds: float) -> None:
    """Have the kernel end a read or write that waits too long; gunicorn resets Python's timeout."""
    whole = int(seconds)
    limit = struct.pack("ll", whole, int((seconds - whole) * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, limit)
