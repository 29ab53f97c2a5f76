"""The body of a caller's request, in the pieces in which it comes.

WSGI's `read(n)` waits until n bytes have come. gunicorn's reader below it can do better: it gives
what is there, and while nothing is there the wait has a deadline and ends when the engine speaks.
Under other servers `read` has to do, without either.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from typing import IO, Protocol

from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import NoMoreData
from gunicorn.http.message import Request

from shared.errors import RequestTimeout, RequestTooLarge

_PIECE = 64 * 1024


class CallerGone(Exception):
    """The caller closed its connection; nobody waits for the answer."""


class Upload(Protocol):
    """A body, to be read once."""

    complete: bool  # whether all of it was read

    def pieces(self, engine: socket.socket | None) -> Iterator[bytes]:
        """Yield it as it comes, until its end or until `engine`, if there is one yet, speaks.

        Raises:
            RequestTooLarge: it is longer than the limit; nothing beyond it is yielded.
            RequestTimeout: no byte came for too long.
            CallerGone: the caller left in the middle.
            gunicorn.http.errors.ParseException: its framing is wrong.
        """


class NoUpload:
    """No body."""

    complete = True

    def pieces(self, _engine: socket.socket | None) -> Iterator[bytes]:
        """Yield nothing."""
        return iter(())


class PlainUpload:
    """A body that any WSGI server gives."""

    def __init__(self, stream: IO[bytes], *, limit: int) -> None:
        self.complete = False
        self._stream = stream
        self._left = limit

    def pieces(self, engine: socket.socket | None) -> Iterator[bytes]:
        """Yield it in pieces of 64 KiB; blocks while they fill."""
        while piece := self._stream.read(_PIECE):
            self._left -= len(piece)
            if self._left < 0:
                raise too_large()
            yield piece
            if engine is not None and _readable(engine):
                return
        self.complete = True


class GunicornUpload:
    """A body that gunicorn's parser reads; leaves its reader where the next request begins."""

    def __init__(self, body: Body, caller: socket.socket, *, limit: int, patience_s: float) -> None:
        self.complete = False
        self._body = body
        self._caller = caller
        self._limit = limit
        self._patience_s = patience_s

    def pieces(self, engine: socket.socket | None) -> Iterator[bytes]:
        """Yield what is there as soon as it is there."""
        reader = self._body.reader
        if isinstance(reader, LengthReader):
            unreader, pieces = reader.unreader, _sized(reader)
        else:
            unreader = reader.req.unreader
            self._body.reader = bounded = _BoundedChunks(reader.req, self._limit)
            pieces = bounded.pieces()
        unreader.sock = _Awaited(self._caller, engine, self._patience_s)
        self._body.failed = True  # until the end was seen, gunicorn must not look for a request
        try:
            yield from pieces
            self.complete = True
            self._body.failed = False
        except _EngineSpeaks:
            return
        except (NoMoreData, ConnectionError) as error:
            raise CallerGone from error
        finally:
            unreader.sock = self._caller


def too_large() -> RequestTooLarge:
    """Return the error of a body over the limit."""
    return RequestTooLarge("body: longer than PROXY_MAX_BODY allows")


class _EngineSpeaks(Exception):
    """The engine answers, or has gone, before it was sent everything."""


class _Awaited:
    """The caller's socket, as gunicorn's reader uses it."""

    def __init__(
        self, caller: socket.socket, engine: socket.socket | None, patience_s: float
    ) -> None:
        self._caller = caller
        self._engine = engine
        self._patience_s = patience_s
        self._poll = select.poll()
        self._poll.register(caller, select.POLLIN)
        if engine is not None:
            self._poll.register(engine, select.POLLIN)

    def recv(self, size: int) -> bytes:
        """Return what is there, of at most `size` bytes; wait for it."""
        ready = dict(self._poll.poll(self._patience_s * 1000))
        if not ready:
            raise RequestTimeout(f"body: no byte came for {self._patience_s:g} s")
        if self._engine is not None and self._engine.fileno() in ready:
            raise _EngineSpeaks
        return self._caller.recv(min(size, _PIECE))


def _sized(reader: LengthReader) -> Iterator[bytes]:
    while left := reader.length:
        piece = reader.unreader.read(None, read_ahead=left)
        if not piece:
            raise CallerGone
        reader.unreader.unread(piece[left:])  # the beginning of the next request
        reader.length -= len(piece[:left])
        yield piece[:left]


class _BoundedChunks(ChunkedReader):  # type: ignore[misc]
    """gunicorn's reader of chunks, up to a limit; a chunk that would pass it is not begun."""

    parser: Iterator[bytes] | None

    def __init__(self, req: Request, limit: int) -> None:
        super().__init__(req, req.unreader)
        self._left = limit

    def parse_chunk_size(self, unreader: object, data: bytes | None = None) -> tuple[int, bytes]:
        """Return the next chunk's size and what was read of it."""
        size, rest = super().parse_chunk_size(unreader, data)
        self._left -= size
        if self._left < 0:
            raise too_large()
        return size, rest

    def pieces(self) -> Iterator[bytes]:
        """Yield what each read of the socket gives."""
        for piece in self.parser or ():
            if piece:
                yield piece
        self.parser = None  # gunicorn's mark of a body at its end


def _readable(engine: socket.socket) -> bool:
    poll = select.poll()  # select() ends at descriptor 1023
    poll.register(engine, select.POLLIN)
    return bool(poll.poll(0))
