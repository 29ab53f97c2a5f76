"""One connection to an engine. Knows where an answer ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shared.address import authority
from shared.errors import EngineUnreachable
from web.proxy.makers import HEARD_BYTES
from web.relay.answer import (
    BODILESS,
    SWITCHING_PROTOCOLS,
    AnswerHead,
    BadAnswer,
    Body,
    answer_head,
)
from web.relay.chunks import BadChunks, Chunks
from web.relay.repeated import Repeated

if TYPE_CHECKING:
    from web.relay.caller import CallerConnection
    from web.relay.pool import Address, Pool
    from web.relay.pump import Pump

HELD_BYTES = 256 * 1024
"""Kept for a slow reader before the other side is asked to pause."""

_MAX_HEAD = 256 * 1024  # bytes before an answer's body, with all interim answers
_IN_HEAD, _CHUNKED, _COUNTED, _UNTIL_CLOSE, _TUNNEL, _SPENT, _HEARD = range(7)
_STATE = {Body.CHUNKED: _CHUNKED, Body.COUNTED: _COUNTED, Body.UNTIL_CLOSE: _UNTIL_CLOSE}
_STREAM_FROM = 3  # pieces; what ends sooner is not worth the pump's system calls
_MAX_INFORMATIONAL = 199
_UNAUTHORIZED = 401


class EngineConnection(asyncio.Protocol):
    """Carries one exchange at a time; `caller` is whose it is, None while it waits in the pool."""

    __slots__ = (
        "_chunks", "_clock", "_head", "_heard", "_interim", "_left", "_memo", "_paused", "_pool",
        "_pump", "_slot", "_state", "_whole_pieces", "address", "answer", "caller", "idle_since",
        "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, pool: Pool, address: Address, pump: Pump | None = None) -> None:
        """Connect to `address`; long streams go through `pump`, where there is one."""
        self._pool = pool
        self._pump = pump
        self._slot: int | None = None  # in the pump, while the stream is there
        self._whole_pieces = 0  # of the stream, since it was begun or came back
        self._clock = pool.clock
        self.address = address
        self.caller: CallerConnection | None = None
        self.answer: AnswerHead | None = None  # once its head has come
        self.idle_since = 0.0
        self._memo: tuple[Repeated, AnswerHead] | None = None
        self._head = b""
        self._heard = b""  # of the beginning of an answer that the caller hears
        self._interim = 0  # bytes of answers before the answer
        self._state = _IN_HEAD
        self._left = 0
        self._chunks = Chunks()
        self._paused = False

    def begin(self, caller: CallerConnection, request: bytes) -> None:
        """Send a request on behalf of `caller`, who gets the answer."""
        self.caller = caller
        self.answer = None
        self._head = b""
        self._interim = 0
        self._state = _IN_HEAD
        self.transport.write(request)

    def send(self, data: bytes) -> None:
        """Send more of the request's body."""
        self.transport.write(data)

    def pause(self) -> None:
        """Read no more of the answer than the caller takes."""
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Go on reading the answer."""
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    def has_moved(self) -> None:
        """Hear that the pump has passed something on."""
        if self.caller is not None:
            self.caller.deadline = self._clock.idle_until

    def back_from_pump(self, piece: bytes, sent: int) -> None:
        """Go on with the stream here.

        Args:
            piece: what was read last and may need to be judged; empty if the engine's side ended.
            sent: how much of it the caller was sent, of whole chunks then.
        """
        self._slot = None
        self.transport.resume_reading()
        try:
            if sent and self.caller is not None:
                self.has_moved()
                self.caller.transport.write(piece[sent:])
            elif piece:
                self.data_received(piece)
        except BaseException:  # what the event loop does where it brings the bytes itself
            self.transport.abort()
            raise

    def release(self) -> None:
        """Forget the caller: back into the pool if another request may follow, else close."""
        self.caller = None
        if self._paused:
            self.resume()
        takes_more = self._state == _IN_HEAD and self.answer is not None and self.answer.reusable
        # One that answered before it took the whole request may never take the rest of it.
        if takes_more and not self.transport.get_write_buffer_size():
            self._pool.put(self)
        else:
            self.transport.abort()

    def abort(self) -> None:
        """Close at once, so that the engine stops working on the request."""
        self.caller = None
        if self._pump is not None and self._slot is not None:
            self._pump.leave(self._slot)
            self._slot = None
        self.transport.abort()

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(high=HELD_BYTES)

    def data_received(self, data: bytes) -> None:
        """Pass on what the engine sends, up to the end of its answer."""
        caller = self.caller
        if caller is None:  # bytes that nobody asked for: never another answer's beginning
            self.transport.abort()
            return
        try:
            if self._state == _CHUNKED:  # first, and short: it happens at every token
                end = self._chunks.end_in(data)
                if end < 0:
                    caller.deadline = self._clock.idle_until
                    caller.transport.write(data)
                    self._whole_pieces += 1
                    if self._whole_pieces == _STREAM_FROM and self._pump is not None:
                        self._enter_pump(self._pump, caller)
                else:
                    self._end(caller, data, end)
            elif self._state == _IN_HEAD:
                self._receive_head(caller, data)
            elif self._state == _COUNTED and len(data) >= self._left:
                self._end(caller, data, self._left)
            elif self._state == _HEARD:
                self._tell(caller, data)
            else:
                self._left -= len(data)
                caller.pass_on(data)
        except (BadAnswer, BadChunks) as error:
            self.abort()
            caller.failed(
                EngineUnreachable(f"{self._name} answered what cannot be passed on: {error}")
            )

    def eof_received(self) -> None:
        """Let the transport close: an engine that ends its side has ended."""
        if self.caller is None:
            self._pool.closed_early(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the caller, or take it out of the pool."""
        caller, self.caller = self.caller, None
        if caller is None:
            if error is not None:
                self._pool.closed_early(self)
        elif self.ends_by_closing and error is None:
            caller.answered(self, last=True)
        elif self._state == _TUNNEL:
            caller.transport.close()
        else:
            if self.answer is None and self.idle_since:
                self._pool.closed_early(self)
            caller.failed(EngineUnreachable(f"{self._name} broke the connection"))

    def pause_writing(self) -> None:
        """Read no more of the caller's body than the engine takes."""
        if self.caller is not None:
            self.caller.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on reading the caller's body."""
        if self.caller is not None:
            self.caller.transport.resume_reading()

    @property
    def ends_by_closing(self) -> bool:
        """Whether nothing but the end of the connection ends the answer under way."""
        body = None if self.answer is None else self.answer.body
        return body is Body.UNTIL_CLOSE and self._state != _TUNNEL

    @property
    def _name(self) -> str:
        return f"engine at {authority(*self.address)}"

    def _enter_pump(self, pump: Pump, caller: CallerConnection) -> None:
        self._whole_pieces = 0
        if self._paused or not self._chunks.between or not caller.only_reads:
            return
        source, sink = (
            transport.get_extra_info("socket").fileno()
            for transport in (self.transport, caller.transport)
        )
        self._slot = pump.take(self, source, sink)
        if self._slot is not None:
            self.transport.pause_reading()

    # the answer

    def _receive_head(self, caller: CallerConnection, data: bytes) -> None:
        if self._head:
            data = self._head + data
        begin = 0
        while (end := data.find(b"\r\n\r\n", begin)) >= 0:
            answer, length = self._read(data[begin:end])
            begin = end + 4
            if answer.status > _MAX_INFORMATIONAL or answer.status == SWITCHING_PROTOCOLS:
                self._head = b""
                self._begin_answer(caller, answer, length, data[begin:])
                return
        self._interim += begin
        self._head = data[begin:]
        if self._interim + len(self._head) > _MAX_HEAD:
            raise BadAnswer(f"a head, or interim answers, of over {_MAX_HEAD} bytes")

    def _begin_answer(
        self, caller: CallerConnection, answer: AnswerHead, length: int, body: bytes
    ) -> None:
        if answer.status == _UNAUTHORIZED:  # the key is ours and right, so the engine is another
            self.abort()
            caller.wrong_engine()
            return
        if answer.status == SWITCHING_PROTOCOLS and not caller.wants_tunnel:
            raise BadAnswer("it switches to a protocol that nobody asked for")
        self.answer = answer
        if answer.status == SWITCHING_PROTOCOLS:
            self._state = _TUNNEL
            caller.switched(answer, body)
            return
        if answer.body is Body.COUNTED and len(body) >= length:  # all of it, as is usual
            if caller.hears:
                caller.hear(body[:length])
            caller.begin_answer(answer, length, body[:length])
            self._ended(caller, extra=len(body) > length)
            return
        self._state, self._left = _STATE[answer.body], length
        if self._state == _CHUNKED:
            self._chunks = Chunks()
            self._whole_pieces = 0
        caller.begin_answer(answer, length, b"")
        if caller.hears:
            self._state, self._heard = _HEARD, b""
        if body:
            self.data_received(body)

    def _tell(self, caller: CallerConnection, data: bytes) -> None:
        """Tell the caller's side the beginning of an answer, piece by piece, and pass it on."""
        answer = self.answer
        if answer is None:
            return
        heard = self._heard + data
        goes_on = not caller.hear(heard) and len(heard) < HEARD_BYTES
        self._state = state = _STATE[answer.body]
        self.data_received(data)
        if goes_on and self.caller is caller and self._state == state:
            self._state, self._heard = _HEARD, heard

    def _read(self, head: bytes) -> tuple[AnswerHead, int]:
        if self._memo is not None:
            length = self._memo[0].length_in(head)
            if length is not None:
                return self._memo[1], length
        answer = answer_head(head)
        if answer.status not in BODILESS:  # whose Content-Length is not of this answer
            self._memo = Repeated(head), answer
        return answer, answer.length

    def _end(self, caller: CallerConnection, data: bytes, end: int) -> None:
        caller.pass_on(data[:end])
        self._ended(caller, extra=end < len(data))

    def _ended(self, caller: CallerConnection, *, extra: bool) -> None:
        # An engine that sends more than it announced is not trusted with another request.
        self._state = _SPENT if extra else _IN_HEAD
        caller.answered(self, last=False)
