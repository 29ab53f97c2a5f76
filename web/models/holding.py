"""A request that waits for its model, in a thread of its own; the relay's wait without one.

A caller of a stream gets comment lines meanwhile, so that neither it nor a proxy between gives up.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import inf
from time import monotonic

from flask import Response

from shared.errors import FleetError
from web.access.auth import Principal
from web.http.caller import is_gone
from web.http.errors import code_of, error_object, status_of
from web.http.upload import CallerGone
from web.models.router import Router
from web.models.waiting_room import COMMENT_EVERY_S, Place

_LOOK_FOR_CALLER_S = 1.0
_AGAIN_S = 0.1  # where a replica came and has gone
EVENTS = "text/event-stream; charset=utf-8"


class AllGone(Exception):
    """All replicas went while a request was on its way to one: it was sent to none."""


class Held:
    """Waits until a replica of a model takes requests. Leave it when done, whatever came of it."""

    def __init__(
        self, router: Router, name: str, principal: Principal, caller: socket.socket | None
    ) -> None:
        self._router = router
        self._name = name
        self._principal = principal
        self._caller = caller
        self._woken = threading.Event()
        self._place: Place | None = None

    def is_ready(self, wait_s: float = inf) -> bool:
        """Return whether a replica takes requests, within `wait_s` seconds.

        Raises:
            ModelNotFound, InstanceNotReady: none does, and none is to come; says why.
            CallerGone: nobody waits for it any more.
        """
        deadline = monotonic() + wait_s
        while not self._router.replicas(self._name, self._principal):
            place = self._place
            if place is None:
                self._woken.clear()
                self._place = self._router.enter(self._name, self._principal, self._woken.set)
                continue
            if place.is_over:
                self.leave()
                if place.error is not None:
                    raise place.error
                self._woken.clear()
            left = deadline - monotonic()
            if left <= 0:
                return False
            self._woken.wait(min(left, _LOOK_FOR_CALLER_S if self._place else _AGAIN_S))
            if is_gone(self._caller):
                self.leave()
                raise CallerGone
        self.leave()
        return True

    def comment(self) -> bytes:
        """Return how far it is, as a line that no reader of events takes for one."""
        return comment(self._place.said() if self._place else "waiting")

    def leave(self) -> None:
        """Give the place up; harmless to repeat."""
        place, self._place = self._place, None
        if place is not None:
            place.leave()


def comment(said: str) -> bytes:
    """Return a comment line of a stream of events."""
    return f": {said}\n\n".encode()


def error_event(error: FleetError) -> bytes:
    """Return the end of a stream of events that says `error`, as vLLM ends its own."""
    said = error_object(status_of(error), str(error), code=code_of(error))
    return b"data: %b\n\ndata: [DONE]\n\n" % json.dumps({"error": said}).encode()


def streamed(held: Held, answer: Callable[[], Response], done: Callable[[], None]) -> Response:
    """Return a stream of events that begins while its request waits.

    Args:
        held: what it waits for.
        answer: asks a replica, once there is one.
        done: called when the request will not be sent any more.
    """
    return Response(_pieces(held, answer, done), content_type=EVENTS)


def _pieces(
    held: Held, answer: Callable[[], Response], done: Callable[[], None]
) -> Iterator[bytes]:
    try:
        try:
            yield held.comment()
            response = None
            while response is None:
                while not held.is_ready(COMMENT_EVERY_S):
                    yield held.comment()
                with suppress(AllGone):
                    response = answer()
        except FleetError as error:
            yield error_event(error)
            return
        finally:
            held.leave()
            done()
        try:
            if response.mimetype == "text/event-stream":
                yield from response.response  # type: ignore[misc]
            else:
                yield one_event(b"".join(response.response))  # type: ignore[arg-type]
        finally:
            response.close()
    except CallerGone:
        return


def one_event(body: bytes) -> bytes:
    """Return an answer that is no stream, an engine's error, as the last event of one."""
    lines = b"\n".join(b"data: " + line for line in body.splitlines() if line)
    return lines + b"\n\ndata: [DONE]\n\n"
