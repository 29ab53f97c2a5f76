"""Long streams, which the relay passes on in compiled code where there is some: to the byte."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event
from time import monotonic

import pytest

from tests.demo.waiting import until
from tests.integration.conformance import Case, running_way
from tests.integration.raw_engine import Script, Talk, streaming
from tests.integration.web_processes import descriptors_of, serving
from web.relay.compiled import library

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = b"data: token\n\n"
_compiled = pytest.param(
    "true", marks=pytest.mark.skipif(library() is None, reason="no C compiler was here at set-up")
)


@pytest.fixture(scope="module", params=[_compiled, "false"])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    """Return a case of the relay, with its compiled code and without."""
    folder = tmp_path_factory.mktemp("streams")
    compiled = {"PROXY_COMPILED": request.param}
    with running_way("relay", folder, **compiled) as way, closing(Case(way)) as case:
        yield case


@pytest.fixture(autouse=True)
def _forget(case: Case) -> Iterator[None]:
    case.engine.forget()
    yield
    case.leave()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def sending(*pieces: bytes, gap_s: float = 0.002) -> Script:
    """Return a script that sends bytes as they are, in pieces."""

    def script(talk: Talk) -> None:
        talk.read_body()
        talk.send(CHUNKED)
        for piece in pieces:
            talk.pause(gap_s)
            talk.send(piece)

    return script


def pieces_of_all_sizes() -> list[bytes]:
    """Return what a stream may be made of, the odd sizes too; the same at each call."""
    chance = random.Random(4)  # noqa: S311 - no secret
    sizes = [1, 9, 10, 15, 16, 255, 256, 4095, 4096, 65_521, 65_536, 200_000]
    sizes += [chance.randint(1, 400) for _ in range(600)]
    chance.shuffle(sizes)
    return [chance.randbytes(size) for size in sizes]


def test_a_stream_comes_whole_through_a_slow_reader(case: Case) -> None:
    pieces = pieces_of_all_sizes()
    case.engine.script = streaming(pieces, 0)
    caller = case.caller()
    caller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
    for _ in range(2):
        caller.send(case.head())
        Event().wait(0.3)  # all buffers on the way fill up
        answer = caller.answer()
        assert answer.whole
        assert answer.body == b"".join(pieces)


def test_connections_of_streams_go_back_to_the_pool(case: Case) -> None:
    case.engine.script = streaming([TOKEN] * 20, 0.001)
    caller = case.caller()
    for _ in range(5):
        caller.send(case.head())
        assert caller.answer().body == TOKEN * 20
    assert case.engine.connections <= 1


def test_a_stream_that_is_cut_anywhere_comes_whole(case: Case) -> None:
    data = b"".join(chunk(piece) for piece in pieces_of_all_sizes()[:300]) + b"0\r\n\r\n"
    chance = random.Random(5)  # noqa: S311 - no secret
    cuts = sorted(chance.sample(range(1, len(data)), 400))
    parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    case.engine.script = sending(*parts, gap_s=0.0005)
    caller = case.caller()
    for _ in range(2):
        caller.send(case.head())
        answer = caller.answer()
        assert answer.whole
        assert answer.body == b"".join(pieces_of_all_sizes()[:300])


def test_the_connections_stay_one_to_one_while_callers_come_and_go(case: Case) -> None:
    def script(talk: Talk) -> None:
        talk.read_body()
        talk.send(CHUNKED)
        name = talk.request.target.rpartition("?")[2].encode()
        for number in range(60):
            talk.pause(0.005)
            talk.send(chunk(b"%b:%d;" % (name, number)))
        talk.send(b"0\r\n\r\n")

    case.engine.script = script

    def calls(name: int) -> None:
        for turn in range(8):
            caller = case.caller()
            caller.send(case.head("GET", f"?{name}-{turn}"))
            expected = [b"%d-%d:%d;" % (name, turn, number) for number in range(60)]
            if (name + turn) % 2:  # leaves in the middle; its descriptor goes to the next one
                caller.read_to(expected[20])
                caller.close()
                continue
            answer = caller.answer()
            assert answer.whole
            assert answer.body == b"".join(expected)

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(calls, range(24)))


def test_an_engine_that_dies_in_its_stream_leaves_no_final_chunk(case: Case) -> None:
    case.engine.script = streaming([TOKEN] * 30, 0.005, end=False)
    caller = case.caller()
    caller.send(case.head())
    data = caller.until_closed()
    assert data.count(TOKEN) == 30
    assert data.endswith(chunk(TOKEN))


@pytest.mark.parametrize(
    "fault",
    [
        b"zz\r\nx\r\n",
        b"-1\r\nx\r\n",
        b"5\r\nhello!!",
        b"0\r\nx: y\r\n\r\n",
        b"\r\n",
        b"5 \r\nhello\r\n",
    ],
)
def test_a_chunk_that_is_none_ends_the_stream(case: Case, fault: bytes) -> None:
    good = [chunk(TOKEN)] * 20
    case.engine.script = sending(*good, fault, *good)
    caller = case.caller()
    caller.send(case.head())
    data = caller.until_closed()
    _, _, passed_on = data.partition(b"\r\n\r\n")
    # What comes together with the fault may be kept back with it.
    assert b"".join(good).startswith(passed_on)
    assert passed_on.startswith(b"".join(good[:10]))


def test_bytes_after_the_end_are_no_answer(case: Case) -> None:
    after = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
    case.engine.script = sending(*[chunk(TOKEN)] * 20, chunk(TOKEN) + b"0\r\n\r\n" + after)
    caller = case.caller()
    for _ in range(2):
        caller.send(case.head())
        answer = caller.answer()
        assert (answer.whole, answer.body) == (True, TOKEN * 21)
    assert len(case.engine.received) == 2


def test_a_caller_who_leaves_ends_the_engines_request_at_once(case: Case) -> None:
    case.engine.script = streaming([TOKEN] * 5_000, 0.005)
    caller = case.caller()
    caller.send(case.head())
    for _ in range(10):
        caller.read_to(TOKEN)
    left = monotonic()
    caller.close()
    assert until(lambda: case.last().gone_at is not None, 10)
    assert case.last().gone_at - left < 1


def test_streams_take_two_descriptors_and_callers_who_vanish_leave_none(case: Case) -> None:
    def script(talk: Talk) -> None:
        talk.read_body()
        talk.send(CHUNKED)
        for piece in [TOKEN] * 10 + [b"enough"]:
            talk.pause(0.005)
            talk.send(chunk(piece))
        talk.pause(20)

    case.engine.script = script
    (web,) = serving(case.way)
    before = descriptors_of(web)
    for turn in range(6):
        callers = [case.caller() for _ in range(50)]
        for caller in callers:
            caller.send(case.head())
        for caller in callers:
            caller.read_to(chunk(b"enough"))
        assert descriptors_of(web) <= before + 2 * len(callers)
        for caller in callers:
            if turn % 2:  # leaves with a reset
                caller.socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            caller.close()
        assert until(lambda: descriptors_of(web) <= before, 10), descriptors_of(web) - before


def test_a_stream_may_last_and_may_not_fall_silent(case: Case) -> None:
    def script(talk: Talk) -> None:
        talk.read_body()
        talk.send(CHUNKED)
        for _ in range(35):  # 3.5 s, with 2 s of silence allowed
            talk.pause(0.1)
            talk.send(chunk(TOKEN))
        talk.pause(20)

    case.engine.script = script
    caller = case.caller()
    began = monotonic()
    caller.send(case.head())
    data = caller.until_closed()
    assert data.count(TOKEN) == 35
    assert 5 < monotonic() - began < 9
    assert until(lambda: case.last().gone_at is not None, 10)


def test_a_caller_who_does_not_read_holds_up_the_engine_and_nobody_else(case: Case) -> None:
    big = b"x" * 1_000

    def flood(talk: Talk) -> None:
        if talk.request.target.endswith("?other"):
            streaming([TOKEN] * 20, 0.005)(talk)
            return
        talk.read_body()
        talk.send(CHUNKED)
        for number in range(100_000):  # 100 MB, of which nobody may hold more than a little
            sent[0] = number
            talk.send(chunk(big))

    sent = [0]
    case.engine.script = flood
    idle = case.caller()
    idle.send(case.head())
    idle.read_to(big)
    assert until(lambda: stands_still(sent), 10)
    assert sent[0] < 30_000
    other = case.caller()
    other.send(case.head("GET", "?other"))
    assert other.answer().body == TOKEN * 20


def stands_still(sent: list[int]) -> bool:
    """Return whether the engine has been held up for a while."""
    before = sent[0]
    Event().wait(0.3)
    return sent[0] == before
