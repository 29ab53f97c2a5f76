"""One request to an engine and its answer, over a connection of its own.

Bodies pass in pieces, both ways, in constant memory. While it waits for the engine it also watches
the caller: when that one leaves, the engine's connection is closed at once, and vLLM aborts the
request. A caller that closes only its sending half looks just like one that has left, and counts as
gone: in a silent prefill there is no other sign.
"""

from __future__ import annotations

import re
import select
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

import h11

from shared.address import authority
from shared.errors import EngineError, EngineTimeout, EngineUnreachable, InvalidRequest
from web.http import caller
from web.http.upload import CallerGone, NoUpload, Upload
from web.proxy.engine_socket import notice_lost_host

_CHUNK = 64 * 1024
_MAX_HEAD = 256 * 1024  # bytes of an answer's status line and headers
_LAST_STATUS = 599
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110, section 5.5; h11 lets them pass

Headers = list[tuple[bytes, bytes]]


class AnswerBroken(Exception):
    """The engine's connection ended in the middle of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the proxy waits, in seconds."""

    connect: float  # for an engine to take the connection
    first_byte: float  # for an answer to begin
    idle: float  # between pieces of an answer, or of a request that the engine does not take
    body: float  # between pieces of a request


class Exchange:
    """Requests to one engine, one after the other. Close it when done; early, it aborts one."""

    def __init__(
        self, host: str, port: int, *, caller_socket: socket.socket | None, patience: Patience
    ) -> None:
        """Connect to the engine.

        Raises:
            EngineUnreachable: no connection was made, so nothing of the request has left.
        """
        self._name = f"engine at {authority(host, port)}"
        self._patience = patience
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        try:
            self._socket = socket.create_connection((host, port), timeout=patience.connect)
        except OSError as error:
            raise EngineUnreachable(f"{self._name} takes no connection: {error}") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        notice_lost_host(self._socket, host)
        self._socket.settimeout(0)  # all waits are in _wait
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._caller = caller_socket
        if caller_socket is not None:
            self._poll.register(caller_socket, caller.GONE)

    def send(self, method: bytes, target: bytes, headers: Headers, upload: Upload) -> None:
        """Send the request; stops early if the engine answers before it has read it all.

        Raises:
            InvalidRequest: a header cannot be sent on.
            CallerGone: the caller left in the middle of its body.
            EngineTimeout: the engine stopped taking the body.
            RequestTooLarge, RequestTimeout, ParseException: as `upload` does.
        """
        try:
            head = self._http.send(h11.Request(method=method, target=target, headers=headers))
        except h11.LocalProtocolError as error:
            raise InvalidRequest(f"request: cannot be sent on: {error}") from error
        with suppress(_AnswersAlready):
            self._write(head or b"")
            for piece in upload.pieces(self._socket):
                self._write(self._http.send(h11.Data(data=piece)) or b"")
            if upload.complete:
                self._write(self._http.send(h11.EndOfMessage()) or b"")

    def answer(self) -> h11.Response:
        """Return status and headers of the answer, once they are there.

        Raises:
            EngineTimeout: it did not begin to answer in time.
            EngineUnreachable: the connection broke before an answer began.
            EngineError: what it answers is not HTTP, or can be read in two ways.
            CallerGone: the caller left while waiting.
        """
        try:
            began, patience_s = monotonic(), self._patience.first_byte
            event = self._next_event(patience_s)
            while isinstance(event, h11.InformationalResponse):
                if monotonic() - began > patience_s:
                    raise EngineTimeout(f"{self._name} gave no final answer in {patience_s:g} s")
                event = self._next_event(patience_s)
        except OSError as error:
            raise EngineUnreachable(f"{self._name} broke the connection: {error}") from error
        except h11.RemoteProtocolError as error:
            if self._http.trailing_data == (b"", True):
                raise self._no_answer() from error
            raise EngineError(f"{self._name} does not answer in HTTP: {error}") from error
        if not isinstance(event, h11.Response):
            raise self._no_answer()
        self._check(event)
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

    def ask(self, target: bytes, headers: Headers) -> int:
        """GET `target`, read the whole answer and return its status; the connection stays open.

        Raises:
            EngineError: as for `answer`, or the connection cannot be used any further.
            CallerGone: the caller left.
        """
        self.send(b"GET", target, headers, NoUpload())
        answer = self.answer()
        try:
            for _ in self.body():
                pass
            self._http.start_next_cycle()
        except (AnswerBroken, h11.LocalProtocolError) as error:
            raise EngineError(f"{self._name} ended the connection after {target!r}") from error
        return answer.status_code

    def close(self) -> None:
        """Close the connection; harmless to repeat."""
        with suppress(OSError):
            self._socket.close()

    def _check(self, answer: h11.Response) -> None:
        if not answer.http_version.startswith(b"1."):
            raise EngineError(f"{self._name} answers in HTTP/{answer.http_version.decode()}")
        if answer.status_code > _LAST_STATUS:
            raise EngineError(f"{self._name} answers with the status {answer.status_code}")
        names = [name for name, _ in answer.headers]
        if b"transfer-encoding" in names and b"content-length" in names:
            raise EngineError(f"{self._name} gives its answer two lengths")
        bad = next((name for name, value in answer.headers if _CONTROL.search(value)), None)
        if bad is not None:
            raise EngineError(f"{self._name} sends a control character in its header {bad!r}")

    def _no_answer(self) -> EngineUnreachable:
        return EngineUnreachable(f"{self._name} closed the connection without an answer")

    def _next_event(self, timeout_s: float) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._wait(self._poll, timeout_s, "sent nothing")
            self._http.receive_data(self._socket.recv(_CHUNK))
        return event

    def _write(self, data: bytes) -> None:
        """Send all of `data`, unless the engine answers instead of taking it."""
        left = memoryview(data)
        try:
            while left:
                try:
                    left = left[self._socket.send(left) :]
                except BlockingIOError:
                    self._wait_until_it_takes_more()
        except OSError as error:  # it closed its side: what it answered before that counts
            raise _AnswersAlready from error

    def _wait_until_it_takes_more(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLOUT)
        if self._caller is not None:
            poll.register(self._caller, caller.GONE)
        events = self._wait(poll, self._patience.idle, "took nothing of the request")
        if not events & select.POLLOUT:
            raise _AnswersAlready

    def _wait(self, poll: select.poll, timeout_s: float, otherwise: str) -> int:
        """Wait for the engine; return its events."""
        ready = dict(poll.poll(timeout_s * 1000))
        if not ready:
            raise EngineTimeout(f"{self._name} {otherwise} for {timeout_s:g} s")
        if self._caller is not None and self._caller.fileno() in ready:
            raise CallerGone
        return ready[self._socket.fileno()]


class _AnswersAlready(Exception):
    """The engine answers, or has gone, before it took the whole request."""
