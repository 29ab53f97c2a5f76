"""One request to an engine and its answer, over a connection of its own.

Bodies pass in pieces, both ways, in constant memory. While it waits for the engine it also watches
the caller: when that one leaves, the engine's connection is closed at once, and vLLM aborts the
request.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import h11

from shared.errors import EngineTimeout, EngineUnreachable, InvalidRequest
from web import caller

_CHUNK = 64 * 1024
_MAX_HEAD = 256 * 1024  # bytes of an answer's status line and headers

Headers = list[tuple[bytes, bytes]]


class CallerGone(Exception):
    """The caller closed its connection; nobody waits for the answer."""


class AnswerBroken(Exception):
    """The engine's connection ended in the middle of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the proxy waits for an engine, in seconds."""

    connect: float
    first_byte: float
    idle: float  # between pieces of an answer, or of a request that the engine does not take


class Exchange:
    """One request and its answer. Close it when done; closing early aborts the request."""

    def __init__(
        self, host: str, port: int, *, caller_socket: socket.socket | None, patience: Patience
    ) -> None:
        """Connect to the engine.

        Raises:
            EngineUnreachable: no connection was made, so nothing of the request has left.
        """
        self._name = f"engine at {host}:{port}"
        self._patience = patience
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        try:
            self._socket = socket.create_connection((host, port), timeout=patience.connect)
        except OSError as error:
            raise EngineUnreachable(f"{self._name} takes no connection: {error}") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(patience.idle)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._caller = caller_socket
        if caller_socket is not None:
            self._poll.register(caller_socket, caller.GONE)

    def send(self, method: bytes, target: bytes, headers: Headers, body: Iterable[bytes]) -> None:
        """Send the request; stops early if the engine answers before it has read it all.

        Raises:
            InvalidRequest: a header cannot be sent on.
            CallerGone: the caller left in the middle of its body.
            EngineTimeout: the engine stopped taking the body.
        """
        try:
            head = self._http.send(h11.Request(method=method, target=target, headers=headers))
        except h11.LocalProtocolError as error:
            raise InvalidRequest(f"request: cannot be sent on: {error}") from error
        try:
            self._socket.sendall(head or b"")
            for piece in body:
                if self._answers_already():
                    return
                self._socket.sendall(self._http.send(h11.Data(data=piece)) or b"")
            self._socket.sendall(self._http.send(h11.EndOfMessage()) or b"")
        except TimeoutError as error:
            raise EngineTimeout(f"{self._name} stopped reading the request") from error
        except OSError:
            return  # it closed its side: what it answered before that, if anything, counts
        except h11.LocalProtocolError as error:  # less, or more, than the promised length
            raise CallerGone from error

    def answer(self) -> h11.Response:
        """Return status and headers of the answer, once they are there.

        Raises:
            EngineTimeout: it did not begin to answer in time.
            EngineUnreachable: the connection broke before an answer began.
            CallerGone: the caller left while waiting.
        """
        try:
            event = self._next_event(self._patience.first_byte)
            while isinstance(event, h11.InformationalResponse):
                event = self._next_event(self._patience.first_byte)
        except (OSError, h11.RemoteProtocolError) as error:
            raise EngineUnreachable(f"{self._name} broke the connection: {error}") from error
        if not isinstance(event, h11.Response):
            raise EngineUnreachable(f"{self._name} closed the connection without an answer")
        return event

    def body(self) -> Iterator[bytes]:
        """Yield the answer's body in the pieces in which the engine sends it.

        Raises:
            AnswerBroken: it ended before it was complete, or fell silent for too long.
            CallerGone: the caller left.
        """
        try:
            while True:
                event = self._next_event(self._patience.idle)
                if isinstance(event, h11.Data):
                    yield bytes(event.data)
                elif not isinstance(event, h11.InformationalResponse):
                    return
        except EngineTimeout as error:
            raise AnswerBroken(str(error)) from error
        except (OSError, h11.RemoteProtocolError) as error:
            raise AnswerBroken(f"{self._name} ended in the middle of its answer") from error

    def close(self) -> None:
        """Close the connection; harmless to repeat."""
        with suppress(OSError):
            self._socket.close()

    def _next_event(self, timeout_s: float) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._wait(timeout_s)
            self._http.receive_data(self._socket.recv(_CHUNK))
        return event

    def _wait(self, timeout_s: float) -> None:
        ready = dict(self._poll.poll(timeout_s * 1000))
        if not ready:
            raise EngineTimeout(f"{self._name} sent nothing for {timeout_s:g} s")
        if self._caller is not None and self._caller.fileno() in ready:
            raise CallerGone
        # Only the engine's side is ready: there is data, its end or an error to receive.

    def _answers_already(self) -> bool:
        poll = select.poll()  # select() ends at descriptor 1023
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))
