"""Connections whose requests need the application: served in threads, then given back."""

from __future__ import annotations

import logging
import re
import socket
import struct
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from gunicorn.workers.gthread import TConn

from web.access.engine_paths import INFERENCE
from web.relay.kept import Kept, KeptFirst

if TYPE_CHECKING:
    from web.relay.relay import Relay

Handle = Callable[[TConn], object]

# In a request line; nearly all of these go to an engine.
_PROXIED = re.compile(
    rb"/(?:proxy|v[12])/|(?:%b)(?=[ ?])" % "|".join(map(re.escape, sorted(INFERENCE))).encode()
)

log = logging.getLogger(__name__)


class Threads:
    """Gives connections to threads, never so many of one kind that nothing else finds one.

    Uploads may wait for their callers, and what goes to an engine for the engine and for the one
    who reads the answer; all else ends soon.
    """

    def __init__(
        self, relay: Relay, executor: Executor, size: int, handle: Handle, config: object
    ) -> None:
        """Run `handle`, gunicorn's, in `executor`, which has `size` threads."""
        self._relay = relay
        self._executor = executor
        self._handle = handle
        self._config = config
        self._uploads = _Share(max(1, size // 2))
        self._proxied = _Share(max(1, size - max(1, size // 8)))
        self.busy = 0  # connections that are here

    def take(
        self,
        connection: socket.socket,
        unread: bytes,
        peer: object,
        is_whole: bool,
        kept: Kept | None = None,
    ) -> None:
        """Serve the next request of a connection in a thread.

        Args:
            connection: nothing else reads or writes it.
            unread: what was already read of it.
            peer: its address.
            is_whole: the request is all here, so that the thread waits for nobody.
            kept: what was read after `unread`; is closed in the end.
        """
        self.busy += 1
        is_proxied = _PROXIED.search(unread.partition(b"\r\n")[0]) is not None
        shares = [
            share
            for share, concerned in ((self._uploads, not is_whole), (self._proxied, is_proxied))
            if concerned
        ]
        job = _Job(connection, unread, peer, shares, kept)
        full = next((share for share in shares if not share.has_room), None)
        if full is None:
            self._submit(job)
        else:
            full.waiting.append(job)

    def _submit(self, job: _Job) -> None:
        for share in job.shares:
            share.held += 1
        self._executor.submit(self._serve, job)

    def _serve(self, job: _Job) -> None:
        """Serve one request; runs in a thread."""
        unread, keep = b"", False
        try:
            _limit_waits(job.connection, self._relay.limits.body_timeout_s)
            served = TConn(self._config, job.connection, job.peer, job.connection.getsockname())
            served.init()
            if job.kept is not None:
                job.kept.rewind()
                served.parser.unreader = KeptFirst(job.connection, job.kept)
            served.parser.unreader.unread(job.unread)
            keep = bool(self._handle(served))
            if keep:
                unread = served.parser.unreader.take_buffered()
                unread += job.kept.read() if job.kept is not None else b""
        except Exception:  # would be lost in a future that nobody asks
            log.exception("connection of %s: closed", job.peer)
        finally:
            self._relay.loop.call_soon_threadsafe(self._served, job, unread, keep)

    def _served(self, job: _Job, unread: bytes, keep: bool) -> None:
        self.busy -= 1
        if job.kept is not None:
            job.kept.close()
        for share in job.shares:
            share.held -= 1
        for share in (self._uploads, self._proxied):
            while share.waiting and all(each.has_room for each in share.waiting[0].shares):
                self._submit(share.waiting.popleft())
        if job.connection.fileno() >= 0:  # else the application closed it
            self._relay.take_back(job.connection, unread, ending=not keep)


class _Share:
    """How many of the threads may be held by jobs of one kind, and the jobs that wait for one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0
        self.waiting: deque[_Job] = deque()

    @property
    def has_room(self) -> bool:
        return self.held < self._most


class _Job:
    """One connection on its way through a thread."""

    __slots__ = ("connection", "kept", "peer", "shares", "unread")

    def __init__(
        self,
        connection: socket.socket,
        unread: bytes,
        peer: object,
        shares: list[_Share],
        kept: Kept | None,
    ) -> None:
        self.connection = connection
        self.unread = unread
        self.peer = peer
        self.shares = shares
        self.kept = kept


def _limit_waits(connection: socket.socket, seconds: float) -> None:
    """Have the kernel end a read or write that waits too long; gunicorn resets Python's timeout."""
    whole = int(seconds)
    limit = struct.pack("ll", whole, int((seconds - whole) * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, limit)
