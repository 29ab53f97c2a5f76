"""Callers that are slow, many or gone, and descriptors that run out: all others are served."""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from tests.demo.waiting import until
from tests.integration.conformance import SHORT, Caller, Case, Way
from tests.integration.raw_engine import answering, silent
from tests.integration.test_one_address import CHAT, Model, head
from tests.integration.web_processes import (
    Asking,
    Held,
    Stream,
    callers_of,
    cpu_seconds,
    descriptors_of,
    metric,
    running_web,
    serving,
)

_MANY = 500


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    with running_web(tmp_path_factory.mktemp("web"), WEB_PROCESSES="1") as way:
        yield way


@pytest.fixture(scope="module")
def other(way: Way) -> Iterator[Case]:
    with closing(Case(way)) as case:
        yield case


@pytest.fixture
def case(way: Way) -> Iterator[Case]:
    with closing(Case(way)) as case:
        yield case


def many(case: Case, begun: bytes) -> list[Caller]:
    """Return callers that have all sent that, and no more."""
    callers = [case.caller() for _ in range(_MANY)]
    for caller in callers:
        caller.send(begun)
    return callers


def a_head(case: Case) -> bytes:
    return case.head("GET")[:-2] + b"X-Slow: " + b"a" * 1000


def a_relayed_body(case: Case) -> bytes:
    return case.head("POST", "", "Content-Length: 1000")


def a_body_for_the_application(case: Case) -> bytes:
    return case.head("POST", "/instances", "Content-Length: 1000")


def a_chunked_body(case: Case) -> bytes:
    return case.head("POST", "", "Transfer-Encoding: chunked") + b"3e8\r\n"


def a_body_that_was_asked_for(case: Case) -> bytes:
    return case.head("POST", "", "Content-Length: 1000", "Expect: 100-continue")


def a_long_body_for_a_model(_case: Case) -> bytes:
    """Return more of it than is waited for before a thread has it."""
    whole = head("POST", CHAT, "Content-Type: application/json", body=b" " * 2**21)
    return whole[: 100 * 1024]


def an_upload_for_a_model(_case: Case) -> bytes:
    kind = "Content-Type: multipart/form-data; boundary=x"
    return head("POST", CHAT, kind, body=b"--x\r\n" + b" " * 2**21)[: 100 * 1024]


@pytest.mark.parametrize(
    "begin",
    [
        a_head,
        a_relayed_body,
        a_body_for_the_application,
        a_chunked_body,
        a_body_that_was_asked_for,
        a_long_body_for_a_model,
        an_upload_for_a_model,
    ],
)
def test_slow_callers_keep_nobody_waiting(
    case: Case, other: Case, begin: Callable[[Case], bytes]
) -> None:
    with Asking(other) as asking:
        assert asking.goes_on()
        slow = many(case, begin(case))
        for _ in range(5):
            for caller in slow:
                caller.send(b"a")
        assert asking.goes_on(100), asking.wrong
    assert asking.slowest < 2  # generous: the machine has other work, too


@pytest.mark.parametrize("begin", [a_long_body_for_a_model, an_upload_for_a_model])
def test_slow_uploads_keep_no_upload_waiting(
    way: Way, case: Case, begin: Callable[[Case], bytes]
) -> None:
    (pid,) = serving(way)
    with closing(Model(way, 1)) as model:
        descriptors = descriptors_of(pid)
        slow = many(case, begin(case))  # more than there are threads
        body = b"--x\r\n%b\r\n\r\n%b\r\n%b\r\n--x--\r\n" % (
            b'Content-Disposition: form-data; name="model"',
            model.name.encode(),
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"a" * 2**21,
        )
        kind = "Content-Type: multipart/form-data; boundary=x"
        for _ in range(3):
            assert model.ask("POST", CHAT, kind, body=body).status == 200
            assert model.post(CHAT, {"a": "x" * 2**21, "model": model.name}).status == 200
        for caller in slow:
            caller.close()
        for caller in model.callers:
            caller.close()
        assert until(lambda: descriptors_of(pid) <= descriptors, 20)


def test_callers_that_do_not_read_keep_nobody_waiting(case: Case, other: Case) -> None:
    body = b"x" * 2**23
    case.engine.script = answering(
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    with Asking(other) as asking:
        # More over the other way than there are threads.
        for request in (case.head("GET"), case.head("GET", "", version="1.0")):
            for _ in range(100):
                caller = case.caller()
                caller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                caller.send(request)
        assert asking.goes_on(100), asking.wrong


def test_engines_that_are_slow_keep_only_their_callers_waiting(way: Way, other: Case) -> None:
    with closing(Model(way, 1)) as model, Asking(other) as asking:
        model.engines[0].script = silent
        body = json.dumps({"model": model.name}).encode()
        for path in ("/pooling", "/score", "/tokenize?a=b"):  # by threads, of which there are 64
            for _ in range(40):
                model.caller().send(head("POST", path, "Content-Type: application/json", body=body))
        assert asking.goes_on(100), asking.wrong


def test_an_answer_under_way_is_not_overtaken_by_one_of_a_thread(case: Case) -> None:
    body = os.urandom(2**22)
    case.engine.script = answering(
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    caller = case.caller()
    for _ in range(3):
        caller.send(case.head("GET") + case.head("GET", "/healthz"))
    Event().wait(0.5)  # all that nobody reads yet is written
    for _ in range(3):
        answer = caller.answer()
        assert (answer.whole, answer.body == body) == (True, True)
        assert caller.answer().status == 200


def left(caller: Caller) -> None:
    caller.close()


def broken(caller: Caller) -> None:
    caller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.close()


_STATES: dict[str, Callable[[Case], bytes]] = {
    "idle": lambda _: b"",
    "half a head": lambda case: case.head("GET")[:-5],
    "half a relayed body": lambda case: case.head("POST", "", "Content-Length: 9") + b"a",
    "half a body for the application": lambda case: (
        case.head("POST", "/instances", "Content-Length: 9") + b"a"
    ),
    "awaiting the first byte": lambda case: case.head("GET"),
    "awaiting it in a thread": lambda case: case.head("GET", "", version="1.0"),
    "refused": lambda case: case.head("GET", "/proxy/../x") + b"more",
}


@pytest.mark.parametrize("leave", [left, broken])
@pytest.mark.parametrize("state", _STATES)
def test_a_caller_that_vanishes_leaves_nothing(
    way: Way, case: Case, state: str, leave: Callable[[Caller], None]
) -> None:
    case.engine.script = silent
    (web,) = serving(way)
    assert until(lambda: metric(way, "fleet_requests_in_flight", {}) == 0, 10)
    before = descriptors_of(web)
    callers = [case.caller() for _ in range(20)]
    for caller in callers:
        caller.send(_STATES[state](case))
    # Not all descriptors: connections to engines of the test before may just be let go of.
    assert until(lambda: callers_of(web, way.address[1]) >= 10, 5) or state == "refused"
    for caller in callers:
        leave(caller)
    assert until(lambda: descriptors_of(web) <= before, 10), descriptors_of(web) - before
    labels = {"instance": case.instance_id}
    assert until(lambda: metric(way, "fleet_requests_in_flight", labels) == 0, 5)


@pytest.mark.parametrize("leave", [left, broken])
@pytest.mark.parametrize("by", ["relay", "view"])
def test_a_caller_that_vanishes_from_its_stream_leaves_nothing(
    way: Way, case: Case, by: str, leave: Callable[[Caller], None]
) -> None:
    (web,) = serving(way)
    before = descriptors_of(web)
    case.engine.script = held = Held()
    streams = [Stream(case, by) for _ in range(20)]
    labels = {"instance": case.instance_id}
    assert until(lambda: metric(way, "fleet_requests_in_flight", labels) == 20, 5)
    for stream in streams:
        leave(stream.caller)
    assert until(lambda: metric(way, "fleet_requests_in_flight", labels) == 0, 10)
    assert until(lambda: descriptors_of(web) <= before, 10), descriptors_of(web) - before
    held.let_go()


def test_a_process_out_of_descriptors_lets_callers_wait_and_recovers(
    way: Way, case: Case, other: Case
) -> None:
    (web,) = serving(way)
    soft, hard = resource.prlimit(web, resource.RLIMIT_NOFILE)
    kept = case.caller()
    kept.send(case.head("GET"))
    assert kept.answer().status == 200
    resource.prlimit(web, resource.RLIMIT_NOFILE, (descriptors_of(web) + 4, hard))
    try:
        waiting = many(case, case.head("GET", "/healthz"))
        used, began = cpu_seconds(web), monotonic()
        Event().wait(1.5)
        assert cpu_seconds(web) - used < 0.5 * (monotonic() - began)  # it does not turn in circles
        for request in (case.head("GET"), case.head("GET", "/healthz")):
            kept.send(request)
            assert kept.answer().status in (200, 503)
            kept = kept if not is_over(kept) else case.caller()
    finally:
        resource.prlimit(web, resource.RLIMIT_NOFILE, (soft, hard))
    answers = [caller.answer().status for caller in waiting]
    # Refused are those who come in with the last descriptors, as often as one of these ends: how
    # many depends on how fast they end.
    assert set(answers) <= {200, 503}
    with Asking(other) as asking:
        assert asking.goes_on(20), asking.wrong
    assert serving(way) == [web]


def is_over(caller: Caller) -> bool:
    """Return whether the other side has closed by now."""
    caller.socket.setblocking(False)  # noqa: FBT003 - the standard library's own
    try:
        return caller.socket.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    finally:
        caller.socket.settimeout(20)


def test_a_process_with_all_its_connections_takes_more_as_others_end(tmp_path: Path) -> None:
    most = {"GUNICORN_CMD_ARGS": "--worker-connections 20"}
    with running_web(tmp_path, WEB_PROCESSES="1", **most) as way, closing(Case(way)) as case:
        idle = [case.caller() for _ in range(20)]
        for caller in idle:
            caller.send(case.head("GET", "/healthz"))
            assert caller.answer().status == 200
        (web,) = serving(way)
        waiting = [case.caller() for _ in range(20)]
        for caller in waiting:
            caller.send(case.head("GET", "/healthz"))
        used = cpu_seconds(web)
        assert not until(lambda: any(map(has_answer, waiting)), 1)
        assert cpu_seconds(web) - used < 0.5
        for caller in idle:
            caller.close()
        for caller in waiting:
            assert caller.answer().status == 200


def has_answer(caller: Caller) -> bool:
    """Return whether something has come."""
    caller.socket.setblocking(False)  # noqa: FBT003 - the standard library's own
    try:
        return bool(caller.socket.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        caller.socket.settimeout(20)


def test_idle_connections_are_closed_in_time_wherever_they_have_been(tmp_path: Path) -> None:
    short = {**SHORT, "GUNICORN_CMD_ARGS": "--keep-alive 3"}
    with running_web(tmp_path, WEB_PROCESSES="1", **short) as way, closing(Case(way)) as case:
        callers = {}
        for request in (case.head("GET"), case.head("GET", "/healthz")):
            caller = callers[request] = case.caller()
            caller.send(request)
            assert caller.answer().status == 200
        began = monotonic()
        for caller in callers.values():
            assert caller.is_closed()
            assert 2.5 < monotonic() - began < 5  # more than PROXY_HEADER_TIMEOUT
