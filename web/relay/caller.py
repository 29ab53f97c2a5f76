"""One caller's connection: reads heads, takes the plain ones the fast way, gives up the others.

HEAD ──▶ RELAYING ──▶ HEAD          an exchange with an engine, then the next request
  ├──▶ ASKING ───▶ RELAYING         one for a model, until an engine has it: see `model_caller`
  │          ├──────▶ TUNNEL        a WebSocket, until either side ends
  │          └──────▶ LINGERING     answered before its body was read: the rest is thrown away
  └──▶ COLLECTING ──▶ LEAVING       not plain: to a thread, once what a thread needs is here
                                    and all answers before it have been sent

Each ends in GONE, in which nothing is done any more but to send what is still unsent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from shared.domain.instance import Instance
from shared.errors import (
    EngineTimeout,
    EngineUnreachable,
    FleetError,
    HeadersTooLarge,
    NoCapacity,
    RequestTimeout,
    Unauthorized,
)
from web.http.errors import CALLER_GONE_STATUS, status_of
from web.http.request_id import new as new_request_id
from web.relay.admission import Grant
from web.relay.answer import AnswerHead, Body
from web.relay.collecting import Collecting
from web.relay.engine import HELD_BYTES, EngineConnection
from web.relay.joined import Joined
from web.relay.kept import Kept
from web.relay.refusal import caller_gone, refusal
from web.relay.repeated import Repeated
from web.relay.request import PlainRequest, plain_request

if TYPE_CHECKING:
    from web.relay.relay import Relay

_LINGER_S = 2.0  # for a caller to read an early answer while it still sends
_MAX_AHEAD = 64 * 1024  # bytes of the next requests that are kept while one is under way

_HEAD, RELAYING, _TUNNEL, _COLLECTING, _LEAVING, _LINGERING, GONE, ASKING = range(8)

log = logging.getLogger(__name__)


class CallerConnection(asyncio.Protocol):
    """A caller's connection, from its first byte until it closes or a thread takes it over."""

    __slots__ = (
        "_collecting", "_dialling", "_engine", "_grant", "_instance", "_is_full", "_is_local",
        "_joined", "_kept", "_last", "_memo", "_peer", "_relay", "_request_id", "_started",
        "_state", "_status", "_unread", "_unsent", "deadline", "hears", "transport", "wants_tunnel",
    )  # fmt: skip

    transport: asyncio.Transport
    _instance: Instance  # whose engine answers; set by the first request

    def __init__(
        self, relay: Relay, wait_s: float, *, unread: bytes = b"", ending: bool = False
    ) -> None:
        """Serve one connection.

        Args:
            relay: what it shares with the others.
            wait_s: how long it may be silent before its next request.
            unread: what was already read of it.
            ending: it has had its last answer; throw away what still comes, then close.
        """
        self._relay = relay
        self._unread = unread
        self._state = _LINGERING if ending else _HEAD
        self._memo: tuple[Repeated, PlainRequest] | None = None
        self._grant: Grant | None = None  # of the last request to an instance
        self._joined: Joined | None = None  # a stream that began before its engine's answer
        self.hears = False  # whether the id in the beginning of the answer is to be remembered
        self._engine: EngineConnection | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._collecting: Collecting | None = None
        self._kept: Kept | None = None  # of a body that is collected, in a file
        self.wants_tunnel = False  # the request under way asks to become a WebSocket
        self._unsent = 0  # bytes of the request's body that are still to come
        self._is_full = False  # the caller reads too slowly what it is answered
        self._last = False  # the connection ends after this answer
        self._status = 0  # of the answer under way; 0 before it begins
        self._request_id = b""
        self._started = 0.0
        self.deadline = relay.clock.now + wait_s

    @property
    def is_relaying(self) -> bool:
        """Whether it has a request under way, with an engine or for a model."""
        return self._state in (RELAYING, _TUNNEL, ASKING)

    @property
    def only_reads(self) -> bool:
        """Whether there is nothing but the answer between it and the engine, all of it taken."""
        return (
            not self._unsent
            and not self._is_full
            and not self.transport.get_write_buffer_size()
            and not self.transport.is_closing()
        )

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, with what was read before."""
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(high=HELD_BYTES)
        self._peer = self.transport.get_extra_info("peername")
        if self._peer is None:  # has left already, and whose requests these are nobody can tell
            self._state = GONE
            self.transport.abort()
            return
        self._is_local = self._relay.admission.is_local(self._peer)
        self._relay.callers.add(self)
        if self._state == _LINGERING:
            self._linger()
        elif self._unread:
            self._read_ahead()

    def data_received(self, data: bytes) -> None:
        """Take more of the request."""
        state = self._state
        if state == _HEAD:
            self._read_head(self._unread + data if self._unread else data)
        elif state == RELAYING:
            self._body_received(data)
        elif state == _TUNNEL:
            self.deadline = self._relay.clock.idle_until
            if self._engine is not None:
                self._engine.send(data)
        elif state == _COLLECTING:
            self._collect(data)
        elif state == ASKING:
            self._more_asked(data)

    def eof_received(self) -> None:
        """Stop the engine's work, then let the transport close.

        Who closes its sending half has left: nginx and vLLM take it so, and in a silent prefill
        nothing else tells. Should it still read, it is told.
        """
        if self._state == RELAYING and not self._status:
            self._status = CALLER_GONE_STATUS
            self._finished()
            self._state = GONE
            self._leave_engine()
            self.transport.write(caller_gone(self._request_id))
        elif self._state == _COLLECTING:
            self._leave()  # a request that is cut off: the view says so
        elif self._state == ASKING:
            self._caller_left()

    def connection_lost(self, _error: Exception | None) -> None:
        """Stop the engine's work for a caller that has left."""
        self._relay.callers.discard(self)
        self._relay.tunnels.discard(self)
        self._leave_engine()
        if self._kept is not None:
            self._kept.close()
        if self._state == ASKING:
            self._lost_while_asking()
        elif self._state in (RELAYING, _TUNNEL):
            self._finished()
        self._state = GONE

    def pause_writing(self) -> None:
        """Read no more of the answer than the caller takes."""
        self._is_full = True
        self.deadline = self._relay.clock.idle_until
        if self._engine is not None:
            self._engine.pause()

    def resume_writing(self) -> None:
        """Go on reading the answer, or with the next request."""
        self._is_full = False
        if self._engine is not None:
            self._engine.resume()
        elif self._state == _HEAD:
            self._next_request()
        elif self._state == _LEAVING:
            self._relay.loop.call_soon(self._hand_over)

    # the head

    def _read_head(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._await_head(data)
            return
        head = data[:end]
        memo = self._memo
        length = memo[0].length_in(head) if memo is not None else None
        if memo is not None and length is not None:
            request = memo[1]
        else:
            limits = self._relay.limits
            is_short = end <= limits.max_header_bytes
            found = plain_request(head, limits.max_headers) if is_short else None
            if found is None:
                self._give_up(data, end)
                return
            request, length = found, found.length or 0
            self._memo = Repeated(head), request
        if not request.instance_id:
            self._read_for_model(request, data, end, length)
            return
        relay = self._relay
        admitted = relay.admission.admit(
            request, self._grant, relay.clock.now, is_local=self._is_local
        )
        if admitted is None or length > relay.limits.max_body:
            self._give_up(data, end)
            return
        instance, self._grant = admitted
        self._begin(request)
        self._send(instance, self._grant.head, length, data[end + 4 :])

    def _await_head(self, data: bytes) -> None:
        if not self._unread and data:  # from the first byte on; not again at each further one
            self.deadline = self._relay.clock.now + self._relay.limits.header_timeout_s
        self._unread = data
        most = self._relay.limits.max_header_bytes
        if len(data) > most:
            self._refuse(HeadersTooLarge(f"headers: over {most} bytes; see PROXY_MAX_HEADER_BYTES"))
        elif _has_bare_lf(data):
            self._give_up(data, -1)  # the parser there knows what to say, and waits for no more

    # the fast way

    def _begin(self, request: PlainRequest) -> None:
        relay = self._relay
        self._state = RELAYING
        self._unread = b""
        self.wants_tunnel = request.websocket
        self.hears = request.makes_response
        self._last = not request.keep_alive
        self._status = 0
        self._request_id = request.request_id or new_request_id()
        self._started = relay.time()

    def _send(self, instance: Instance, head: bytes, length: int, body: bytes) -> None:
        """Send a request, as far as it is here, to the instance's engine.

        Args:
            instance: whose engine.
            head: for the engine, up to the lines that differ each time.
            length: of the body, in bytes.
            body: what is here of it, and perhaps of the next request.
        """
        relay = self._relay
        self._unsent = length - len(body)
        if self._unsent < 0:
            self._keep_ahead(body[length:])
            body = body[:length]
            self._unsent = 0
        self._instance = instance
        self.deadline = relay.clock.now + (
            relay.limits.body_timeout_s if self._unsent else relay.limits.first_byte_timeout_s
        )
        relay.activity.begin(instance.instance_id)
        if self._memo is None or self._memo[1].length is None:
            message = b"%b\r\nX-Request-Id: %b\r\n\r\n" % (head, self._request_id)
        else:
            message = b"%b\r\nX-Request-Id: %b\r\nContent-Length: %d\r\n\r\n%b" % (
                head, self._request_id, length, body,
            )  # fmt: skip
        engine = relay.pool.take((instance.host, instance.port or 0))
        if engine is not None:
            self._engine = engine
            engine.begin(self, message)
        else:
            if self._unsent:
                self.transport.pause_reading()  # there is nobody to pass it to yet
            self._dialling = relay.loop.create_task(self._dial(instance, message))

    async def _dial(self, instance: Instance, message: bytes) -> None:
        try:
            engine = await self._relay.dial(instance)
        except (OSError, TimeoutError) as error:
            self._dialling = None
            if self._state == RELAYING:
                self._not_taken(instance, self._relay.no_connection(instance, error))
            return
        self._dialling = None
        if self._state != RELAYING:  # a cancellation may come too late to be one
            engine.abort()
            return
        self._engine = engine
        engine.begin(self, message)
        self._taken()
        self.transport.resume_reading()

    def _not_taken(self, _instance: Instance, error: FleetError) -> None:
        """Hear that an instance's engine took no connection, so that nothing was sent."""
        self.failed(error)

    def _taken(self) -> None:
        """Hear that the request has gone to an engine."""

    # of requests for models

    def _read_for_model(self, request: PlainRequest, data: bytes, end: int, length: int) -> None:
        """Go on with a request that names no instance; `data` is all that came of it."""
        del request, length
        self._give_up(data, end)

    def _more_asked(self, data: bytes) -> None:
        """Take more while a request for a model has no engine yet."""

    def _caller_left(self) -> None:
        """Hear that the caller has closed its sending half meanwhile."""

    def _lost_while_asking(self) -> None:
        """Hear that the caller has gone meanwhile."""

    def _expired_while_asking(self) -> None:
        """End what has lasted too long of it."""

    # the body

    def _body_received(self, data: bytes) -> None:
        if self._unsent == 0:
            self._keep_ahead(data)
            return
        if len(data) > self._unsent:
            self._keep_ahead(data[self._unsent :])
            data = data[: self._unsent]
        self._unsent -= len(data)
        limits = self._relay.limits
        self.deadline = self._relay.clock.now + (
            limits.body_timeout_s if self._unsent else limits.first_byte_timeout_s
        )
        if self._engine is not None:
            self._engine.send(data)

    def _keep_ahead(self, data: bytes) -> None:
        self._unread += data
        if len(self._unread) > _MAX_AHEAD:
            self.transport.pause_reading()

    # what the engine's connection calls

    def begin_answer(self, answer: AnswerHead, length: int, body: bytes) -> None:
        """Send the head of the answer on, with what is there of its body.

        Raises:
            BadAnswer: a stream that has begun cannot go on with it.
        """
        relay = self._relay
        self.deadline = relay.clock.idle_until
        if self._joined is not None:
            self._joined.begin(answer, length, body)
        self._status = answer.status
        # With part of the request unsent nobody knows where the next one begins.
        self._last = (
            self._last or self._unsent > 0 or relay.draining or answer.body is Body.UNTIL_CLOSE
        )
        if self._joined is None:
            head = answer.for_caller(length, self._request_id, relay.clock.date, last=self._last)
            self.transport.write(head + body)

    def pass_on(self, data: bytes) -> None:
        """Send bytes of the answer on as they are."""
        self.deadline = self._relay.clock.idle_until
        if self._joined is not None:
            data = self._joined.passed(data)
        self.transport.write(data)

    def hear(self, beginning: bytes) -> bool:
        """Hear the beginning of an answer; return whether it is enough."""
        return self._relay.makers.heard(beginning, self._instance)

    def switched(self, answer: AnswerHead, data: bytes) -> None:
        """Send the answer to a WebSocket handshake on; from now on bytes pass both ways."""
        self._state = _TUNNEL
        self._relay.tunnels.add(self)
        self._status = answer.status
        self.deadline = self._relay.clock.idle_until
        self.transport.write(answer.for_tunnel(self._request_id, self._relay.clock.date) + data)
        if self._unread and self._engine is not None:
            ahead, self._unread = self._unread, b""
            self.transport.resume_reading()
            self._engine.send(ahead)

    def answered(self, engine: EngineConnection, *, last: bool) -> None:
        """Go on with the next request, or end, now that the answer is complete."""
        self._engine = None
        if self._joined is not None:
            self.transport.write(self._joined.end())
            self._joined = None
        if self._unsent:
            engine.abort()
        else:
            engine.release()
        self._finished()
        if self._unsent or last or self._last:
            self._linger()
        else:
            self._next_request()

    def wrong_engine(self) -> None:
        """Say that the engine's own key is not taken there: it is another engine by now."""
        self._relay.router.refused(self._instance)
        self.failed(self._relay.admission.another_answers(self._instance))

    def failed(self, error: FleetError) -> None:
        """Say what went wrong with the engine; cut the answer if part of it has gone out."""
        if isinstance(error, EngineUnreachable):
            error = self._relay.admission.unreached(self._instance) or error
        ends_by_closing = self._engine is not None and self._engine.ends_by_closing
        self._leave_engine()
        begun, self._status = self._status, self._status or int(status_of(error))
        self._finished()
        joined, self._joined = self._joined, None
        if joined is not None and not begun:
            self.transport.write(joined.last(error))
            self._linger()
            return
        if begun or self._state == _TUNNEL:
            log.warning("instance %s: %s; answer cut", self._instance.instance_id, error)
            if begun and ends_by_closing:
                _reset(self.transport)  # closed in order, it would be the whole answer
            self._close()  # without the final chunk, or short of its length
            return
        self.transport.write(refusal(error, self._request_id))
        self._linger()

    def _leave_engine(self) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
            self._dialling = None
        if self._engine is not None:
            self._engine.abort()
            self._engine = None

    def _finished(self) -> None:
        relay = self._relay
        status, seconds = self._status or CALLER_GONE_STATUS, relay.time() - self._started
        relay.activity.end(self._instance.instance_id)
        relay.metrics.answered(self._instance.instance_id, status, "relay", seconds)
        if relay.log_access is not None and self._memo is not None:
            relay.log_access(self._peer, self._memo[1], status, seconds, self._request_id)

    def _next_request(self) -> None:
        self._state = _HEAD
        if self._is_full:  # no further answers for one who does not read those it has
            self.transport.pause_reading()
            self.deadline = self._relay.clock.idle_until
            return
        self.deadline = self._relay.clock.now + self._relay.keep_alive_s
        self.transport.resume_reading()
        if self._unread:
            self._relay.loop.call_soon(self._read_ahead)

    def _read_ahead(self) -> None:
        if self._state == _HEAD and self._unread:
            data, self._unread = self._unread, b""
            self._read_head(data)

    # the other way

    def _give_up(self, data: bytes, head_end: int, kept: Kept | None = None) -> None:
        """Give the connection to a thread, as soon as it need not wait for the caller.

        Args:
            data: what was read of the request.
            head_end: offset of the empty line after its head; -1: the head is malformed.
            kept: takes what is still to come of it, so that it need not wait at all.
        """
        self._unread = data
        self._collecting = Collecting(data, head_end, self._relay.limits.max_body)
        self._kept = kept
        self._state = _COLLECTING
        self.deadline = self._relay.clock.now + self._relay.limits.body_timeout_s
        self._collect(b"")

    def _collect(self, data: bytes) -> None:
        if self._kept is not None:
            self._keep(self._kept, data)
            return
        self._unread += data
        self.deadline = self._relay.clock.now + self._relay.limits.body_timeout_s
        if self._collecting is not None and self._collecting.is_enough(self._unread):
            self._leave()

    def _keep(self, kept: Kept, data: bytes) -> None:
        try:
            kept.write(data)
        except OSError as error:
            self._refuse(NoCapacity(f"web process: no room to keep a request's body: {error}"))
            return
        self.deadline = self._relay.clock.now + self._relay.limits.body_timeout_s
        if kept.is_enough and self._collecting is not None:
            self._collecting.is_whole = kept.missing <= 0
            self._leave()

    def _leave(self) -> None:
        """Go to a thread, once the answers to earlier requests have gone out: it would overtake."""
        self._state = _LEAVING
        if self.transport.get_write_buffer_size():
            self.deadline = self._relay.clock.idle_until
            self.transport.pause_reading()
            self.transport.set_write_buffer_limits(high=0)  # so that we hear when all is sent
        else:
            self._hand_over()

    def _hand_over(self) -> None:
        collecting = self._collecting
        if self._state != _LEAVING or collecting is None:
            return
        try:
            connection = detach(self.transport)
        except OSError as error:  # no descriptor is left
            self._refuse(NoCapacity(f"web process: {error}"))
            return
        self._state = GONE
        self._relay.callers.discard(self)
        kept, self._kept = self._kept, None
        self._relay.give_to_thread(connection, self._unread, self._peer, collecting.is_whole, kept)

    # time

    def expire(self) -> None:
        """End what has lasted too long."""
        limits = self._relay.limits
        unsent = self.transport.get_write_buffer_size() > 0
        if self._state == _HEAD and self._is_full:
            self.transport.abort()
        elif (self._state == _HEAD and not self._unread) or (self._state == _LINGERING and unsent):
            self._close()
        elif self._state in (_HEAD, _COLLECTING):
            part = "head" if self._state == _HEAD else "body"
            self._refuse(RequestTimeout(f"request: its {part} did not come in time"))
        elif self._state == ASKING:
            self._expired_while_asking()
        elif self._state == RELAYING and self._unsent and not self._engine_is_slow():
            self.failed(RequestTimeout(f"body: nothing came for {limits.body_timeout_s:g} s"))
        elif self._state in (RELAYING, _TUNNEL):
            self.failed(
                EngineTimeout(f"instance {self._instance.instance_id}: its engine fell silent")
            )
        else:
            self.transport.abort()

    def check_key(self) -> None:
        """End a WebSocket whose key opens nothing any more: each of its messages is a request."""
        if self._state != _TUNNEL or self._memo is None:
            return
        if not self._relay.admission.still_may_use(
            self._memo[1], self._instance, is_local=self._is_local
        ):
            self.failed(Unauthorized("the API key of a WebSocket has expired or was revoked"))

    def hasten(self, deadline: float) -> None:
        """Wait for a next request no longer than that."""
        if self._state == _HEAD and not self._unread:
            self.deadline = min(self.deadline, deadline)

    def _engine_is_slow(self) -> bool:
        engine = self._engine
        return engine is not None and engine.transport.get_write_buffer_size() > 0

    def _refuse(self, error: FleetError) -> None:
        self.transport.write(refusal(error, new_request_id()))
        self._linger()

    def _close(self) -> None:
        """Close once the caller has taken what is unsent, if it takes it at all."""
        self._state = GONE
        self.deadline = self._relay.clock.idle_until
        self.transport.close()

    def _linger(self) -> None:
        """Half-close, and throw away what still comes: a reset would take the answer with it."""
        self._state = _LINGERING
        self._unread = b""
        self.deadline = self._relay.clock.now + _LINGER_S
        self.transport.resume_reading()
        with suppress(OSError, RuntimeError):
            self.transport.write_eof()


def detach(transport: asyncio.Transport) -> socket.socket:
    """Take the connection out of the event loop, with nothing closed; what is unsent is lost."""
    own = transport.get_extra_info("socket")
    taken = socket.socket(own.family, own.type, own.proto, fileno=os.dup(own.fileno()))
    transport.abort()  # closes its own descriptor only
    return taken


def _reset(transport: asyncio.Transport) -> None:
    """Close with a reset, which no reader takes for an end."""
    own = transport.get_extra_info("socket")
    own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _has_bare_lf(head: bytes) -> bool:
    return head.count(b"\n") != head.count(b"\r\n")
