"""Limits and deadlines, and what goes on while Redis does not. Deadlines here are 1 or 2 s."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from shared.domain.instance import Status
from tests.demo.waiting import until
from tests.integration.conformance import MAX_BODY, Case, running_way, ways
from tests.integration.raw_engine import echo, silent, streaming

MIB = 2**20


@pytest.fixture(params=ways())
def own_case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """Return a case on a Redis that the test may break."""
    with running_way(request.param, tmp_path) as way, closing(Case(way)) as case:
        yield case


# gunicorn's threads have no deadline for heads.
where_heads_are_timed = pytest.mark.parametrize(
    "way", sorted(ways().keys() - {"view"}), indirect=True
)


def test_a_body_of_the_limit_is_taken(case: Case) -> None:
    case.engine.script = echo
    assert case.ask("POST", body=b"x" * MAX_BODY).status == 200
    assert case.last().length == MAX_BODY


@pytest.mark.parametrize("length", [MAX_BODY + 1, 2**63, 10**400])
def test_a_body_that_says_it_is_longer_is_413_at_once(case: Case, length: int) -> None:
    caller = case.caller()
    began = monotonic()
    caller.send(case.head("POST", "", f"Content-Length: {length}"))
    answer = caller.answer("POST")
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert monotonic() - began < 0.5
    assert caller.is_closed()
    assert case.engine.raw == b""


def test_a_body_that_turns_out_to_be_longer_is_413_at_the_byte(case: Case) -> None:
    case.engine.script = echo
    caller = case.caller()
    chunk = b"%x\r\n%b\r\n" % (MIB, b"x" * MIB)
    caller.send(case.head("POST", "", "Transfer-Encoding: chunked"))
    for _ in range(MAX_BODY // MIB):
        caller.send(chunk)
    caller.send(b"1\r\nx\r\n")
    answer = caller.answer("POST")
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert caller.is_closed()
    assert case.last().length <= MAX_BODY
    assert not case.last().complete


def test_a_chunk_that_would_pass_the_limit_is_not_begun(case: Case) -> None:
    caller = case.caller()
    caller.send(case.head("POST", "", "Transfer-Encoding: chunked") + b"7fffffffffffffff\r\nabc")
    assert caller.answer("POST").status == 413
    assert caller.is_closed()
    assert not case.engine.received or case.last().length == 0


def test_too_many_headers_are_431(case: Case) -> None:
    answer = case.ask("GET", "", *[f"X-{n}: 1" for n in range(101)])
    assert (answer.status, answer.error["code"]) == (431, "request_header_fields_too_large")
    assert case.engine.raw == b""


def test_too_many_bytes_of_headers_are_431(case: Case) -> None:
    answer = case.ask("GET", "", *[f"X-{n}: {'a' * 7000}" for n in range(10)])
    assert (answer.status, answer.error["type"]) == (431, "invalid_request_error")
    assert case.engine.raw == b""


def test_a_long_header_within_the_limit_is_taken(case: Case) -> None:
    assert case.ask("GET", "", f"X-Long: {'a' * 8000}").status == 200
    assert case.last().header("x-long") == "a" * 8000


def test_a_request_line_without_an_end_is_refused(case: Case) -> None:
    caller = case.caller()
    caller.send(b"GET " + case.path.encode() + b"?" + b"a" * 200_000)
    assert caller.answer().status in (414, 431)
    assert caller.is_closed()


@where_heads_are_timed
@pytest.mark.parametrize("part", [b"GET", b"\r\n", b"GET /proxy/x HTTP/1.1\r\nHost: local"])
def test_a_head_that_does_not_come_is_given_up(case: Case, part: bytes) -> None:
    caller = case.caller()
    caller.send(case.head("GET", "/healthz"))
    assert caller.answer().status == 200
    began = monotonic()
    caller.send(part)
    answer = caller.answer()
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")
    assert 1.5 < monotonic() - began < 5
    assert caller.is_closed()


@where_heads_are_timed
def test_a_long_head_is_refused_before_its_end(case: Case) -> None:
    caller = case.caller()
    caller.send(case.head("GET", "")[:-2] + b"X-A: aaaaaaaaaa\r\n" * 4096)
    answer = caller.answer()
    assert (answer.status, answer.error["code"]) == (431, "headers_too_large")
    assert caller.is_closed()


@where_heads_are_timed
def test_a_head_that_trickles_has_the_same_deadline(case: Case) -> None:
    caller = case.caller()
    began = monotonic()
    for byte in case.head("GET", "", f"X-Slow: {'a' * 100}"):
        caller.send(bytes([byte]))
        if case.engine.received or monotonic() - began > 4:
            break
        Event().wait(0.05)
    assert caller.answer().status == 408
    assert case.engine.raw == b""


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_a_body_that_stops_is_408(case: Case, framing: str) -> None:
    case.engine.script = echo
    caller = case.caller()
    began = monotonic()
    caller.send(case.head("POST", "", framing) + b"3\r\nabc")
    answer = caller.answer("POST")
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")
    assert 0.7 < monotonic() - began < 4  # the relay looks four times a second
    assert caller.is_closed()
    assert until(lambda: not case.engine.received or case.last().gone_at, 2)


def test_a_body_that_trickles_is_taken(case: Case) -> None:
    case.engine.script = echo
    caller = case.caller()
    caller.send(case.head("POST", "", "Content-Length: 6"))
    for _ in range(6):
        Event().wait(0.4)
        caller.send(b"x")
    assert caller.answer("POST").status == 200
    assert case.last().length == 6


def test_an_engine_that_takes_no_connection_in_time_is_502(case: Case) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.settimeout(0)
            one.connect_ex(("127.0.0.1", port))
        instance_id = case.way.record(port)
        path = f"/proxy/{instance_id}/v1/models"
        assert until(lambda: case.ask("GET", path).error["code"] != "instance_not_ready", 3)
        began = monotonic()
        assert case.ask("GET", path).error["code"] in ("engine_unreachable", "engine_timeout")
        assert monotonic() - began < 3
        for one in waiting:
            one.close()


def test_an_engine_that_does_not_begin_to_answer_is_504(case: Case) -> None:
    case.engine.script = silent
    began = monotonic()
    answer = case.ask("POST", body=b"{}")
    assert (answer.status, answer.error["code"]) == (504, "engine_timeout")
    assert 1.5 < monotonic() - began < 4
    assert until(lambda: case.last().gone_at is not None, 2)


def test_a_stream_that_falls_silent_is_cut(case: Case) -> None:
    case.engine.script = streaming([b"one", b"two"], 10)
    caller = case.caller()
    caller.send(case.head())
    began = monotonic()
    data = caller.until_closed()
    assert data.endswith(b"3\r\none\r\n")
    assert 1.5 < monotonic() - began < 5
    assert until(lambda: case.last().gone_at is not None, 2)


def test_an_instance_that_stops_is_503_at_once(case: Case) -> None:
    case.way.become(case.instance_id, Status.STOPPING)
    assert until(lambda: case.ask().status == 503, 1)
    case.engine.forget()
    assert case.ask().error["code"] == "instance_not_ready"
    assert case.engine.raw == b""


@pytest.mark.parametrize("fault", ["frozen", "gone", "flushed"])
def test_requests_to_known_instances_go_on_without_redis(own_case: Case, fault: str) -> None:
    case = own_case
    case.engine.script = echo
    pid = case.way.fleet.redis_pid()
    Event().wait(0.5)  # for the routing table to have heard of it, which is what known means
    if fault == "flushed":
        case.way.flush()
    else:
        os.kill(pid, signal.SIGSTOP if fault == "frozen" else signal.SIGKILL)
    try:
        began = monotonic()
        while monotonic() - began < 5.5:  # longer than the table's refresh
            asked = monotonic()
            assert case.ask().status == 200
            assert monotonic() - asked < 0.5
            Event().wait(0.1)
    finally:
        if fault == "frozen":
            os.kill(pid, signal.SIGCONT)
