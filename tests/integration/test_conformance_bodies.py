"""Bodies both ways, and requests in every shape that HTTP allows."""

from __future__ import annotations

import hashlib
import json
from threading import Event
from time import monotonic
from typing import Any

import pytest

from tests.integration.conformance import Case
from tests.integration.raw_engine import Talk, answering, early, echo, json_answer

MIB = 2**20
BIG = bytes(range(256)) * 4096 * 12  # 12 MiB


# One that sends less than this, slowly, need not be passed on before it is complete.
LARGE_CHUNK = b"10000\r\n" + BIG[:65_536] + b"\r\n"


def chunked(data: bytes, size: int) -> bytes:
    """Return a body in chunks of `size`."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def told(body: bytes) -> Any:
    """Return what `echo` told."""
    return json.loads(body)


@pytest.mark.parametrize("size", [0, 1, 1000, 65_536, 12 * MIB])
def test_an_upload_of_known_length_arrives_whole(case: Case, size: int) -> None:
    case.engine.script = echo
    body = BIG[:size]
    answer = told(case.ask("POST", body=body).body)
    assert (answer["length"], answer["digest"]) == (size, hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize("size", [1, 1000, 100_000, 5 * MIB])
def test_a_chunked_upload_arrives_whole(case: Case, size: int) -> None:
    case.engine.script = echo
    body = BIG[: 3000 if size == 1 else len(BIG)]
    caller = case.caller()
    caller.send(case.head("POST", "", "Transfer-Encoding: chunked") + chunked(body, size))
    answer = told(caller.answer("POST").body)
    assert (answer["length"], answer["digest"]) == (len(body), hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize("size", [0, 1, 1000, 65_536, 12 * MIB])
@pytest.mark.parametrize("framing", ["length", "chunked", "until closed"])
def test_a_download_comes_whole(case: Case, size: int, framing: str) -> None:
    body = BIG[:size]
    if framing == "length":
        raw = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, body)
    elif framing == "chunked":
        raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body, 100_000)
    else:
        raw = b"HTTP/1.1 200 OK\r\n\r\n" + body
    case.engine.script = answering(raw, then_close=framing == "until closed")
    answer = case.ask()
    assert (answer.status, answer.whole) == (200, True)
    assert answer.body == body


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_upload_is_passed_on_as_it_comes(case: Case, framing: str) -> None:
    case.engine.script = echo
    caller = case.caller()
    if framing == "length":
        caller.send(case.head("POST", "", "Content-Length: 12"))
        pieces = [b"one.", b"two.", b"end."]
    else:
        caller.send(case.head("POST", "", "Transfer-Encoding: chunked") + LARGE_CHUNK)
        pieces = [b"4\r\none.\r\n", b"4\r\ntwo.\r\n", b"4\r\nend.\r\n0\r\n\r\n"]
    sent_at = []
    for piece in pieces:
        Event().wait(0.15)
        sent_at.append(monotonic())
        caller.send(piece)
    assert caller.answer("POST").status == 200
    got = case.last()
    assert [piece for _, piece in got.pieces[-3:]] == [b"one.", b"two.", b"end."]
    for (came, _), sent in zip(got.pieces[-3:], sent_at, strict=True):
        assert came - sent < 0.1


def test_a_request_in_tiny_pieces_is_one_request(case: Case) -> None:
    case.engine.script = echo
    caller = case.caller()
    request = case.head("POST", "?x", "Content-Length: 5", "X-A: 1") + b"hello"
    for at in range(len(request)):
        caller.send(request[at : at + 1])
        if at % 7 == 0:
            Event().wait(0.002)
    assert told(caller.answer("POST").body)["length"] == 5
    assert [(got.target, got.body) for got in case.engine.received] == [
        ("/v1/completions?x", b"hello")
    ]


def test_pipelined_requests_are_answered_in_order(case: Case) -> None:
    case.engine.script = echo
    caller = case.caller()
    caller.send(
        case.head("GET", "?0")
        + case.head("POST", "?1", "Content-Length: 3")
        + b"abc"
        + case.head("POST", "?2", "Transfer-Encoding: chunked")
        + b"3\r\nabc\r\n0\r\n\r\n"
        + case.head("GET", "/healthz")
        + case.head("GET", "?4", "Connection: close")
        + case.head("GET", "?5")
    )
    for number in range(3):
        assert told(caller.answer().body)["target"] == f"/v1/completions?{number}"
    assert told(caller.answer().body) == {"status": "ok"}
    assert told(caller.answer().body)["target"] == "/v1/completions?4"
    assert caller.is_closed()
    assert len(case.engine.received) == 4


def test_a_connection_takes_one_request_after_the_other(case: Case) -> None:
    case.engine.script = echo
    caller = case.caller()
    for number in range(20):
        caller.send(case.head("POST", f"?{number}", "Content-Length: 4") + b"%4d" % number)
        assert told(caller.answer().body)["target"] == f"/v1/completions?{number}"
    assert len(case.engine.received) == 20


@pytest.mark.parametrize("option", ["close", "Close"])
def test_a_caller_that_wants_the_connection_closed_gets_it_closed(case: Case, option: str) -> None:
    caller = case.caller()
    caller.send(case.head("GET", "", f"Connection: {option}"))
    assert caller.answer().status == 200
    assert caller.is_closed()


def test_http_1_0_gets_an_answer_and_the_end_of_the_connection(case: Case) -> None:
    caller = case.caller()
    caller.send(case.head("GET", "", version="1.0"))
    answer = caller.answer()
    assert (answer.status, answer.body, answer.whole) == (200, b'{"ok":true}', True)
    assert caller.is_closed()


def test_http_1_0_keeps_the_connection_if_it_asks(case: Case) -> None:
    caller = case.caller()
    for _ in range(2):
        caller.send(case.head("GET", "", "Connection: keep-alive", version="1.0"))
        answer = caller.answer()
        assert (answer.status, answer.body) == (200, b'{"ok":true}')
        assert (answer.header("connection") or "").lower() == "keep-alive"


def test_http_1_0_gets_no_chunks(case: Case) -> None:
    case.engine.script = answering(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"abcdef", 3)
    )
    caller = case.caller()
    caller.send(case.head("GET", "", "Connection: keep-alive", version="1.0"))
    head, _, body = caller.until_closed().partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body == b"abcdef"


def test_head_has_the_length_no_body_and_a_connection_that_goes_on(case: Case) -> None:
    case.engine.script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    caller = case.caller()
    caller.send(case.head("HEAD"))
    answer = caller.answer("HEAD")
    assert (answer.header("content-length"), answer.body) == ("1000", b"")
    case.engine.script = echo
    caller.send(case.head("GET"))
    assert caller.answer().whole


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n",
    ],
)
def test_an_answer_without_a_body_leaves_the_connection_usable(case: Case, answer: bytes) -> None:
    case.engine.script = answering(answer)
    caller = case.caller()
    caller.send(case.head("GET"))
    got = caller.answer()
    assert (got.status, got.body) == (int(answer.split()[1]), b"")
    assert got.header("transfer-encoding") is None
    case.engine.script = echo
    caller.send(case.head("GET"))
    assert caller.answer().whole


def test_expect_100_continue_is_answered_before_the_body(case: Case) -> None:
    case.engine.script = echo
    caller = case.caller()
    caller.send(case.head("POST", "", "Content-Length: 3", "Expect: 100-continue"))
    assert caller.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    caller.send(b"abc")
    assert told(caller.answer("POST").body)["length"] == 3
    assert case.last().header("expect") is None


def test_an_expectation_that_is_not_known_is_417(case: Case) -> None:
    caller = case.caller()
    caller.send(case.head("POST", "", "Content-Length: 3", "Expect: tea"))
    assert caller.answer("POST").status == 417
    assert caller.is_closed()
    assert case.engine.raw == b""


@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_an_early_answer_comes_through_while_the_upload_stalls(case: Case, framing: str) -> None:
    refusal = json_answer({"error": "no"}).replace(b"200 OK", b"413 Too Large")
    case.engine.script = early(refusal)
    caller = case.caller()
    caller.send(case.head("POST", "", framing) + LARGE_CHUNK)
    began = monotonic()
    answer = caller.answer("POST")
    assert (answer.status, answer.whole) == (413, True)
    assert monotonic() - began < 0.5  # and not at a deadline
    assert caller.is_closed()  # the rest of the upload is no request


def test_an_early_answer_comes_through_while_the_upload_flows(case: Case) -> None:
    case.engine.script = early(json_answer({"error": "no"}).replace(b"200 OK", b"413 Too Large"))
    caller = case.caller()
    caller.send(case.head("POST", "", f"Content-Length: {len(BIG)}") + BIG[:MIB])
    answer = caller.answer("POST")
    assert (answer.status, answer.whole) == (413, True)


def test_an_engine_that_goes_away_in_an_upload_is_502(case: Case) -> None:
    def script(talk: Talk) -> None:
        talk.close()

    case.engine.script = script
    caller = case.caller()
    caller.send(case.head("POST", "", "Content-Length: 1000000") + b"x" * 1000)
    assert caller.answer("POST").error["code"] == "engine_unreachable"
    assert caller.is_closed()
