"""The compiled part of the relay judges as the other one does, or leaves the judgement to it."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import cast

import pytest
import uvloop
from hypothesis import example, given
from hypothesis import strategies as st

from web.relay.caller import CallerConnection
from web.relay.chunks import Chunks
from web.relay.clock import Clock
from web.relay.compiled import library
from web.relay.engine import EngineConnection
from web.relay.pool import Pool
from web.relay.pump import Pump, new_pump

compiled = library()
pytestmark = pytest.mark.skipif(compiled is None, reason="no C compiler was here at set-up")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def is_whole(piece: bytes) -> bool:
    assert compiled is not None
    return bool(compiled.pump_whole_chunks(piece, len(piece)))


@pytest.mark.parametrize("size", [1, 9, 10, 15, 16, 255, 256, 4_095, 4_096, 65_000])
def test_whole_chunks_are_known(size: int) -> None:
    piece = chunk(b"\r" * size)
    assert is_whole(piece)
    assert is_whole(piece.upper())
    assert is_whole(piece * 3)
    for end in range(len(piece) - 10, len(piece)):
        assert not is_whole(piece[:end])


@pytest.mark.parametrize(
    "piece",
    [
        b"", b"0\r\n\r\n", b"1\r\nx\r\n0\r\n\r\n", b"1;a=b\r\nx\r\n", b" 1\r\nx\r\n",
        b"1 \r\nx\r\n",
        b"+1\r\nx\r\n", b"0x1\r\nx\r\n", b"1\nx\n", b"00000001\r\nx\r\n", b"fffff\r\nx\r\n",
        b"1\r\nxx\r\n", b"2\r\nx\r\n", b"\r\n", b"g\r\nx\r\n", b"1\r\nx\r\n\r\n",
    ],
)  # fmt: skip
def test_all_else_is_left_to_python(piece: bytes) -> None:
    assert not is_whole(piece)


_PARTS = st.sampled_from(
    [b"\r\n", b"\r", b"\n", b"0", b"1", b"5", b"a", b"F", b"x", b";", b" ", b"hello", chunk(b"x"),
     chunk(b"0\r\n\r\n"), b"0\r\n\r\n", chunk(b"y" * 300)],
)  # fmt: skip


@given(st.lists(_PARTS).map(b"".join) | st.binary(max_size=40))
@example(chunk(b"x") + b"1\r\nx\r")
def test_what_it_takes_for_whole_is_whole_for_the_other_reader(piece: bytes) -> None:
    if is_whole(piece):
        chunks = Chunks()
        assert chunks.end_in(piece) == -1
        assert chunks.between


class Engine:
    """Stands where an engine's connection does: keeps what it is given back."""

    def __init__(self) -> None:
        self.back: list[tuple[bytes, int]] = []
        self.moves = 0

    def back_from_pump(self, piece: bytes, sent: int) -> None:
        self.back.append((piece, sent))

    def has_moved(self) -> None:
        self.moves += 1


class Ground:
    """An event loop, a pump on it, and pairs of sockets."""

    def __init__(self, ended: ExitStack, most_streams: int = 4) -> None:
        assert compiled is not None
        self._ended = ended
        self._loop = uvloop.new_event_loop()
        ended.callback(self._loop.close)
        self.pump = Pump(self._loop, compiled, most_streams)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair()
        for end in pair:
            self._ended.enter_context(end)
            end.settimeout(0)
        return pair

    def connect(self, protocol: asyncio.Protocol, connection: socket.socket) -> None:
        """Give a connection to the event loop, until the test ends."""
        connecting = self._loop.connect_accepted_socket(lambda: protocol, connection)
        transport: asyncio.Transport = self._loop.run_until_complete(connecting)[0]  # type: ignore[assignment]
        self._ended.callback(self.turn)
        self._ended.callback(transport.abort)

    def turn(self) -> None:
        """Let the pump do what there is to do."""
        for _ in range(3):
            self._loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture
def ground() -> Iterator[Ground]:
    with ExitStack() as ended:
        yield Ground(ended)


def read(end: socket.socket) -> bytes:
    data = b""
    with suppress(BlockingIOError):
        while piece := end.recv(1_000_000):
            data += piece
    return data


def test_tokens_pass_and_the_end_comes_back(ground: Ground) -> None:
    (engine_end, source), (sink, caller_end) = ground.pair(), ground.pair()
    engine = Engine()
    assert ground.pump.take(engine, source.fileno(), sink.fileno()) is not None
    for number in range(5):
        engine_end.send(chunk(b"%d" % number))
        ground.turn()
        assert read(caller_end) == chunk(b"%d" % number)
    ground.pump.tick()
    ground.pump.tick()
    assert engine.moves == 1
    last = chunk(b"x") + b"0\r\n\r\n"
    engine_end.send(last + b"more")
    ground.turn()
    assert engine.back == [(last + b"more", 0)]
    assert read(caller_end) == b""
    engine_end.send(chunk(b"of the next answer"))
    ground.turn()
    assert read(source) == chunk(b"of the next answer")


def test_an_engine_that_closes_comes_back(ground: Ground) -> None:
    (engine_end, source), (sink, _) = ground.pair(), ground.pair()
    engine = Engine()
    ground.pump.take(engine, source.fileno(), sink.fileno())
    engine_end.close()
    ground.turn()
    assert engine.back == [(b"", 0)]


def test_a_caller_who_takes_only_part_comes_back_with_the_rest(ground: Ground) -> None:
    (engine_end, source), (sink, caller_end) = ground.pair(), ground.pair()
    engine = Engine()
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    ground.pump.take(engine, source.fileno(), sink.fileno())
    sent = b""
    chance = random.Random(1)  # noqa: S311 - no secret
    while not engine.back:
        piece = chunk(chance.randbytes(3_000))
        engine_end.send(piece)
        sent += piece
        ground.turn()
    (piece, taken) = engine.back[0]
    assert read(caller_end) + piece[taken:] == sent


def test_a_stream_that_has_left_is_let_alone(ground: Ground) -> None:
    (engine_end, source), (sink, caller_end) = ground.pair(), ground.pair()
    engine = Engine()
    slot = ground.pump.take(engine, source.fileno(), sink.fileno())
    engine_end.send(chunk(b"x"))
    assert slot is not None
    ground.pump.leave(slot)
    ground.turn()
    assert (engine.back, read(caller_end)) == ([], b"")
    assert read(source) == chunk(b"x")


class Caller(asyncio.Protocol):
    """A connection that looks, once it is lost, whether its descriptor is still its own."""

    transport: asyncio.Transport

    def __init__(self, connection: socket.socket) -> None:
        self._number = connection.fileno()
        self._inode = os.fstat(self._number).st_ino
        self.lost: list[bool] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if data == b"error":
            raise RuntimeError
        self.transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost.append(os.fstat(self._number).st_ino == self._inode)


def reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


@pytest.mark.parametrize(
    ("leave", "reads"),
    [
        (socket.socket.close, True),
        (reset, True),
        (reset, False),
        (lambda end: end.shutdown(socket.SHUT_WR), True),
        (lambda end: end.send(b"abort"), True),
        (lambda end: end.send(b"error"), True),
    ],
    ids=["close", "reset", "reset, heard by a write", "half-close", "abort", "error"],
)
def test_the_event_loop_closes_no_descriptor_before_its_protocol_has_heard(
    leave: Callable[[socket.socket], object], reads: bool
) -> None:
    """Until then the pump reads and writes descriptors of the loop's."""

    async def exchange() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, _context: None)
        await loop.connect_accepted_socket(lambda: caller, ours)
        if not reads:
            caller.transport.pause_reading()
        leave(theirs)
        while not caller.lost:
            if not reads:  # hears of it by a write
                caller.transport.write(b"x")
            await asyncio.sleep(0)

    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    ours.setblocking(False)  # noqa: FBT003 - the standard library's own
    caller = Caller(ours)
    with theirs, closing(uvloop.new_event_loop()) as loop:
        loop.run_until_complete(asyncio.wait_for(exchange(), 10))
    assert caller.lost == [True]


def test_a_piece_without_memory_for_it_gives_nobody_its_slot(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(_address: int, _size: int) -> bytes:
        raise MemoryError

    (engine_end, source), (sink, _) = ground.pair(), ground.pair()
    (other_end, other_source), (other_sink, other_caller) = ground.pair(), ground.pair()
    slot = ground.pump.take(Engine(), source.fileno(), sink.fileno())
    with monkeypatch.context() as patched:
        patched.setattr("ctypes.string_at", no_memory)
        engine_end.send(b"0\r\n\r\n")
        ground.turn()
    assert slot is not None
    other = ground.pump.take(Engine(), other_source.fileno(), other_sink.fileno())
    ground.pump.leave(slot)  # its deadline has come
    assert other != slot
    other_end.send(chunk(b"x"))
    ground.turn()
    assert read(other_caller) == chunk(b"x")


def test_a_slot_is_used_again_and_never_twice(ground: Ground) -> None:
    pairs = [(ground.pair(), ground.pair()) for _ in range(5)]
    engines = [Engine() for _ in pairs]
    slots = [
        ground.pump.take(engine, ours[1].fileno(), theirs[0].fileno())
        for engine, (ours, theirs) in zip(engines, pairs, strict=True)
    ]
    assert slots[4] is None
    assert len(set(slots[:4])) == 4
    assert slots[2] is not None
    ground.pump.leave(slots[2])
    (ours, theirs) = pairs[4]
    assert ground.pump.take(engines[4], ours[1].fileno(), theirs[0].fileno()) == slots[2]
    ours[0].send(chunk(b"mine"))
    ground.turn()
    assert read(theirs[1]) == chunk(b"mine")
    assert engines[4].back == engines[2].back == []


class Reader:
    """Stands where a caller's connection does, in front of the connection to its engine."""

    only_reads = True
    hears = False
    deadline = 0.0

    def __init__(self, sink: socket.socket) -> None:
        self.transport = self
        self._sink = sink
        self.faults = 0
        self.failures: list[Exception] = []

    def get_extra_info(self, _name: str) -> socket.socket:
        return self._sink

    def begin_answer(self, *_: object) -> None:
        pass

    def write(self, data: bytes) -> None:
        if self.faults:
            self.faults -= 1
            raise RuntimeError("a fault of ours")
        self._sink.send(data)

    def failed(self, error: Exception) -> None:
        self.failures.append(error)


def test_a_fault_in_python_cuts_the_stream_that_came_back(ground: Ground) -> None:
    (engine_end, source), (sink, caller_end) = ground.pair(), ground.pair()
    reader = Reader(sink)
    pool = Pool(Clock(1.0, 0.0, 60.0))
    engine = EngineConnection(pool, ("127.0.0.1", 1), ground.pump)
    ground.connect(engine, source)
    engine.begin(cast("CallerConnection", reader), b"GET / HTTP/1.1\r\n\r\n")
    engine_end.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(5):
        ground.turn()
        engine_end.send(chunk(b"x"))
    ground.turn()
    assert read(caller_end) == chunk(b"x") * 5
    assert not engine.transport.is_reading()  # the pump has it
    reader.faults = 1
    engine_end.send(chunk(b"y")[:-1])  # Python has to follow this
    ground.turn()
    with suppress(BrokenPipeError):
        engine_end.send(chunk(b"y")[-1:])
    ground.turn()
    assert read(caller_end) == b""  # never what follows, as if nothing were missing
    assert len(reader.failures) == 1


def test_a_process_without_a_descriptor_for_a_pump_does_without() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with closing(uvloop.new_event_loop()) as loop:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            assert new_pump(loop, 4) is None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
