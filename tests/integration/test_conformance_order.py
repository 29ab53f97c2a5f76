"""Answers over one connection: whole, in order, one a request, however slowly they are read."""

from __future__ import annotations

import socket
import struct
import threading
from threading import Event

import pytest

from tests.demo.waiting import until
from tests.integration.conformance import Case
from tests.integration.raw_engine import OK, RawEngine, Talk, answering, echo
from tests.integration.test_conformance_websocket import HANDSHAKE, frame, on_the_relay

_LARGE = b"x" * 100_000
_MANY = 200  # such answers: more than the kernel keeps for a caller who does not read


def test_answers_are_whole_before_one_of_the_other_way(case: Case) -> None:
    case.engine.script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + _LARGE)
    caller = case.caller()
    for _ in range(3):  # the last one is for the view, which takes the connection over
        caller.send(case.head() * (_MANY // 4) + case.head("HEAD", "/healthz"))
        Event().wait(0.3)
        for _ in range(_MANY // 4):
            assert caller.answer().body == _LARGE
        assert caller.answer("HEAD").status == 200


def test_who_does_not_read_gets_no_further_answers(case: Case) -> None:
    case.engine.script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + _LARGE)
    caller = case.caller()
    caller.send(case.head() * _MANY)
    Event().wait(1.0)
    assert len(case.engine.received) < _MANY // 2
    for _ in range(_MANY):
        assert caller.answer().body == _LARGE
    caller.send(case.head())
    assert caller.answer().body == _LARGE


def test_a_caller_is_heard_again_whose_upload_nobody_read(case: Case) -> None:
    def answers_early(talk: Talk) -> None:
        Event().wait(0.1)
        talk.send(OK)
        Event().wait(0.2)
        talk.read_body()

    for size in range(4_500_000, 6_500_000, 230_000):  # some are all here and not all passed on
        case.engine.script = answers_early
        caller = case.caller()
        upload = case.head("POST", "", f"Content-Length: {size}") + bytes(size)
        sending = threading.Thread(target=caller.send, args=(upload,))
        sending.start()
        answer = caller.answer("POST")
        assert answer.status == 200
        if answer.header("connection") != "close":
            sending.join()
            case.engine.script = echo
            caller.send(case.head("GET", "?next"))
            assert b"?next" in caller.answer().body
        case.leave()
        sending.join()


@on_the_relay
def test_frames_sent_before_the_handshake_is_answered_arrive(case: Case) -> None:
    arrived = bytearray()

    def late(talk: Talk) -> None:
        talk.upgrade()
        Event().wait(0.3)
        talk.send(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        while True:
            arrived.extend(talk.take(1))

    case.engine.script = late
    caller = case.caller()
    sent = frame(2, bytes(300_000))
    caller.send(case.head("GET", f"/proxy/{case.instance_id}/v1/realtime", *HANDSHAKE) + sent)
    assert until(lambda: len(arrived) == len(sent), 5)
    assert arrived == sent


def test_a_broken_answer_that_only_its_end_would_end_is_cut(case: Case) -> None:
    def breaks(talk: Talk) -> None:
        talk.read_body()
        talk.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\npart")
        Event().wait(0.1)
        peer = talk._peer  # noqa: SLF001 - to break its connection, not to end it
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        talk.close()

    case.engine.script = breaks
    caller = case.caller()
    caller.send(case.head())
    data = b""
    with pytest.raises(ConnectionResetError):  # noqa: PT012 - how it ends, after what came
        while piece := caller.socket.recv(65536):
            data += piece
        if b"chunked" in data and not data.endswith(b"0\r\n\r\n"):
            raise ConnectionResetError  # chunks without their last one say it, too
    assert b"part" in data


def test_who_half_closes_while_an_engine_is_dialled_is_counted_once(case: Case) -> None:
    gone = RawEngine()
    gone.close()
    path = f"/proxy/{case.way.record(gone.port)}/v1/models"
    assert until(lambda: case.ask("GET", path).status == 502, 5)
    log = case.way.fleet.processes[0].log
    before = len(log.read_bytes())
    for size in range(3_900_000, 4_900_000, 60_000):  # of some a little is left to be sent
        case.engine.script = answering(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
        )
        caller = socket.socket()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        caller.connect(case.way.address)
        caller.sendall(case.head())
        Event().wait(0.1)
        caller.sendall(case.head("GET", path))
        caller.shutdown(1)
        Event().wait(0.1)
        caller.close()
    assert b"Traceback" not in log.read_bytes()[before:]


@pytest.mark.parametrize("end", [b"zz\r\n", b"0\r\nHost: x\r\n\r\n", b"1;\r\r\nx\r\n0\r\n\r\n"])
def test_a_request_refused_unread_has_one_answer(case: Case, end: bytes) -> None:
    caller = case.caller()
    caller.send(case.head("POST", "/nowhere", "Transfer-Encoding: chunked") + end)
    assert caller.answer("POST").status == 404
    assert caller.is_closed()


@pytest.mark.parametrize(
    "request_line", ["GET /x HTTP/9.9", "get / HTTP/1.1", "GET /nowhere HTTP/1.1", "GET / HTTP/1.1"]
)
def test_refusals_have_an_id_and_a_date_too(case: Case, request_line: str) -> None:
    caller = case.caller()
    caller.send(f"{request_line}\r\nHost: localhost\r\n\r\n".encode())
    answer = caller.answer()
    assert answer.status >= 400
    assert answer.header("x-request-id")
    assert answer.header("date")
