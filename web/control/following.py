"""Answers that go on: whoever follows something gets each new piece of it as it comes.

Each holds a thread of its web process and asks the store about once a second, so a process takes
few of them and says so to the next. They end where the thing does, where the caller leaves, and as
soon as their process is to stop: who follows is told where to go on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from socket import socket
from time import monotonic
from typing import Protocol

from flask import Response, g, request

from shared.errors import NotFound, RecordUnreadable, StoreUnavailable, TooManyFollowers
from web.access.auth import Principal
from web.access.keys import KeyTable
from web.http.caller import caller_socket, is_gone

LOOK_S = 1.0  # how long one wait for news lasts: then a look at whether the caller is still there
_SILENCE_S = 15.0  # then a sign of life, for whatever stands between us and the caller
_PATIENCE_S = 60.0  # with a store that is away, or has lost the record: nodes bring it back


class Followed(Protocol):
    """Something that goes on, as one caller is shown it."""

    def opening(self) -> bytes:
        """Return what comes first."""

    def more(self, wait_s: float) -> bytes:
        """Return what is new; wait for it if there is nothing; b"" if there was nothing.

        Raises:
            StoreUnavailable: nothing is lost by asking again.
            NotFound: the record is gone; it may come back.
            RecordUnreadable: it may be mended.
        """

    @property
    def over(self) -> bool:
        """Whether nothing more can come."""

    def sign_of_life(self) -> bytes:
        """Return what says nothing; b"" where there is no such thing."""

    def closing(self, why: str) -> bytes:
        """Return what comes last."""


class Followers:
    """How many follow something at this process, and their end.

    Args:
        most: at once.
        keys: who may go on.
    """

    def __init__(self, most: int, keys: KeyTable) -> None:
        self._most = most
        self._keys = keys
        self._lock = threading.Lock()
        self._count = 0
        self._closed = threading.Event()

    def close(self) -> None:
        """Have all that follow told that this process stops, and take no more."""
        self._closed.set()

    def response(self, followed: Followed, content_type: str) -> Response:
        """Return an answer that goes on.

        Raises:
            TooManyFollowers: this process has as many as it takes, or stops.
        """
        if self._closed.is_set():
            raise TooManyFollowers("this web process stops; ask again, and another one answers")
        with self._lock:
            if self._count >= self._most:
                raise TooManyFollowers(
                    f"{self._count} callers follow events or logs at this web process, which takes "
                    f"{self._most}; ask again later, or without follow"
                )
            self._count += 1
        begun = ExitStack()
        begun.callback(self._end)
        pieces = self._pieces(followed, g.principal, caller_socket(request.environ))
        response = Response(pieces, content_type=content_type)
        # Not at the end of the pieces: of an answer to HEAD not even the first one is asked for.
        response.call_on_close(begun.close)
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Accel-Buffering"] = "no"  # nginx would keep pieces until it has many
        response.headers["X-Content-Type-Options"] = "nosniff"  # an engine's words are no page
        return response

    def _pieces(
        self, followed: Followed, principal: Principal, caller: socket | None
    ) -> Iterator[bytes]:
        yield followed.opening()
        said_at = monotonic()
        trouble: _Trouble | None = None
        while not is_gone(caller):
            if self._closed.is_set():
                yield followed.closing("this web process stops; follow again to go on")
                return
            if not self._keys.holds_for(principal):
                yield followed.closing("this API key was revoked or has expired")
                return
            piece = b""
            try:
                piece = followed.more(LOOK_S)
                trouble = None
            except (StoreUnavailable, NotFound, RecordUnreadable) as error:
                trouble = _Trouble(str(error), trouble.since if trouble else monotonic())
                if monotonic() - trouble.since > _PATIENCE_S:
                    yield followed.closing(trouble.what)
                    return
                self._closed.wait(LOOK_S)
            if not piece and followed.over and not trouble:
                yield followed.closing("nothing more can come")
                return
            if not piece and monotonic() - said_at > _SILENCE_S:
                piece = followed.sign_of_life()
                said_at = monotonic()
            if piece:
                said_at = monotonic()
                yield piece

    def _end(self) -> None:
        with self._lock:
            self._count -= 1


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why nothing can be asked, and since when."""

    what: str
    since: float
