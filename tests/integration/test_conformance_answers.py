"""What reaches the caller of an answer: the engine's bytes, or an error; never half a truth."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from time import monotonic

import pytest

from tests.demo.waiting import until
from tests.integration.conformance import Answer, Case
from tests.integration.raw_engine import (
    OK,
    RawEngine,
    Talk,
    answering,
    echo,
    silent,
    streaming,
)
from tests.integration.test_conformance_bodies import BIG, chunked
from tests.integration.test_conformance_websocket import on_the_relay

NO_ANSWER = {
    "nothing": b"",
    "half a status line": b"HTTP/1.1 20",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "garbage": bytes(range(1, 200)) + b"\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "status 099": b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "101 that nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nabc",
    "length +2": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
    "length -2": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nab",
    "length 0x2": b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nab",
    "length and chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "xchunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "header without a colon": b"HTTP/1.1 200 OK\r\nContent-Length 2\r\n\r\nab",
    "header without a name": b"HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 2\r\n\r\nab",
    "blank before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nab",
    "NUL in a header": b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\nab",
    "bare CR in a header": b"HTTP/1.1 200 OK\r\nX-A: a\rb\r\nContent-Length: 2\r\n\r\nab",
    "control character in a header": b"HTTP/1.1 200 OK\r\nX-A: a\x01b\r\n"
    b"Content-Length: 2\r\n\r\nab",
    "DEL in a header": b"HTTP/1.1 200 OK\r\nX-A: a\x7fb\r\nContent-Length: 2\r\n\r\nab",
    "control character in a name": b"HTTP/1.1 200 OK\r\nX\x01: a\r\nContent-Length: 2\r\n\r\nab",
    "header of 1 MiB": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 2**20 + b"\r\n\r\n",
    "1 MiB of headers": b"HTTP/1.1 200 OK\r\n" + b"X-A: aaaaaaaaaa\r\n" * 65_536 + b"\r\n",
}

CUT = {
    "length not reached": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
    "no final chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "within a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
    "no end of the final chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
    "size not hex": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nxyz\r\n",
    "size -3": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
    "chunk too long": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabcd\r\n0\r\n\r\n",
    "size of 100 digits": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"f" * 100
    + b"\r\nabc\r\n0\r\n\r\n",
}


def test_status_and_headers_come_as_the_engine_gave_them(case: Case) -> None:
    case.engine.script = answering(
        b"HTTP/1.1 418 Teapot\r\nX-Twice: 1\r\nX-Twice: 2\r\nContent-Type: a/b\r\n"
        b"Location: http://169.254.169.254/\r\nContent-Length: 2\r\n\r\nab"
    )
    answer = case.ask()
    assert (answer.status, answer.body) == (418, b"ab")
    assert [value for name, value in answer.headers if name == "x-twice"] == ["1", "2"]
    assert answer.header("content-type") == "a/b"


@pytest.mark.parametrize("status", [200, 201, 301, 302, 307, 400, 404, 429, 500, 503, 599])
def test_any_status_is_passed_on_and_a_redirect_not_followed(case: Case, status: int) -> None:
    location = f"http://127.0.0.1:{case.engine.port}/elsewhere"
    case.engine.script = answering(
        f"HTTP/1.1 {status} X\r\nLocation: {location}\r\nContent-Length: 2\r\n\r\nab".encode()
    )
    answer = case.ask()
    assert (answer.status, answer.header("location")) == (status, location)
    assert len(case.engine.received) == 1


def test_an_answer_can_never_run_as_a_page_of_ours(case: Case) -> None:
    case.engine.script = answering(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\n"
        b"Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\n"
        b"Content-Security-Policy: default-src *\r\nX-Content-Type-Options: sniff\r\n"
        b"Server: evil\r\nDate: yesterday\r\nX-Accel-Buffering: yes\r\n"
        b"Content-Length: 15\r\n\r\n<script>alert()"
    )
    answer = case.ask()
    names = [name for name, _ in answer.headers]
    assert not [name for name in names if name.startswith(("set-cookie", "access-control-"))]
    assert answer.header("content-security-policy") == "sandbox; default-src 'none'"
    assert answer.header("x-content-type-options") == "nosniff"
    assert answer.header("x-accel-buffering") == "no"
    assert answer.header("server") != "evil"
    assert answer.header("date") != "yesterday"
    assert answer.body == b"<script>alert()"


def test_headers_of_the_engines_connection_stay_on_it(case: Case) -> None:
    case.engine.script = answering(
        b"HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Proxy-Authenticate: x\r\nTrailer: X-T\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nab",
        then_close=True,
    )
    caller = case.caller()
    caller.send(case.head())
    answer = caller.answer()
    names = {name for name, _ in answer.headers}
    assert not names & {"x-hop", "keep-alive", "proxy-authenticate", "trailer", "upgrade"}
    caller.send(case.head("GET", "/healthz"))
    assert caller.answer().status == 200  # the caller's own connection goes on


@pytest.mark.parametrize("times", [1, 2000])
def test_interim_answers_do_not_stand_for_the_answer(case: Case, times: int) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    case.engine.script = answering(interim * times + OK)
    answer = case.ask()
    assert (answer.status, answer.body) == (200, b'{"ok":true}')


def test_interim_answers_without_end_are_no_answer(case: Case) -> None:
    def interim(talk: Talk) -> None:
        talk.read_body()
        while True:
            talk.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            talk.pause(0.2)

    case.engine.script = interim
    assert case.ask().status == 504


@on_the_relay
def test_a_flood_of_interim_answers_holds_up_nobody(case: Case) -> None:
    def flood(talk: Talk) -> None:
        talk.read_body()
        while True:
            talk.send(b"HTTP/1.1 103 x\r\n\r\nHTTP/1.1 102 x\r\n\r\n" * 10_000)

    case.engine.script = flood
    assert case.ask().status == 502


@pytest.mark.parametrize("status", [600, 999])
def test_a_status_that_http_does_not_have_is_502(case: Case, status: int) -> None:
    case.engine.script = answering(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nab" % status)
    assert case.ask().status == 502


def test_a_folded_header_is_unfolded_or_refused(case: Case) -> None:
    case.engine.script = answering(
        b"HTTP/1.1 200 OK\r\nX-A: a\r\n b\r\nContent-Length: 2\r\n\r\nab"
    )
    answer = case.ask()
    assert answer.status == 502 or answer.header("x-a") == "a b"


def test_bytes_after_an_answer_are_no_answer(case: Case) -> None:
    case.engine.script = answering(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    caller = case.caller()
    for _ in range(3):
        caller.send(case.head())
        assert caller.answer().body == b'{"ok":true}'
    assert len(case.engine.received) == 3


@pytest.mark.parametrize("fault", NO_ANSWER)
def test_an_answer_that_is_none_is_502(case: Case, fault: str) -> None:
    case.engine.script = answering(NO_ANSWER[fault], then_close=True)
    caller = case.caller()
    caller.send(case.head("POST", "", "Content-Length: 2") + b"{}")
    answer = caller.answer("POST")
    assert (answer.status, answer.error["type"]) == (502, "server_error")
    assert len(case.engine.received) == 1  # what was sent is not sent again

    case.engine.script = echo  # and nothing of it is left for the next
    assert b"?next" in case.ask("GET", "?next").body


@pytest.mark.parametrize("fault", CUT)
def test_an_answer_that_breaks_off_is_cut_for_the_caller_too(case: Case, fault: str) -> None:
    case.engine.script = answering(CUT[fault], then_close=True)
    caller = case.caller()
    caller.send(case.head())
    answer = caller.answer()
    assert answer.status == 502 or not answer.whole
    assert answer.status == 502 or b"abc".startswith(answer.body)
    assert answer.status == 502 or caller.is_closed()
    assert len(case.engine.received) == 1

    case.engine.script = echo
    assert b"?next" in case.ask("GET", "?next").body


def test_no_fault_leaves_the_instance_in_use(case: Case) -> None:
    for raw in [*NO_ANSWER.values(), *CUT.values()]:
        case.engine.script = answering(raw, then_close=True)
        case.ask()
    case.engine.script = silent
    for _ in range(3):
        caller = case.caller()
        caller.send(case.head("POST", "", "Content-Length: 2") + b"{}")
        Event().wait(0.05)
        caller.close()
    Event().wait(1.5)  # for the last report of a use
    before = case.in_use()
    Event().wait(2.5)
    assert case.in_use() == before


def test_an_engine_that_takes_no_connection_is_502(case: Case) -> None:
    gone = RawEngine()
    gone.close()
    instance_id = case.way.record(gone.port)
    assert until(lambda: case.ask("GET", f"/proxy/{instance_id}/v1/models").status == 502, 2)
    answer = case.ask("GET", f"/proxy/{instance_id}/v1/models")
    assert answer.error["code"] == "engine_unreachable"


def test_sse_comes_piece_by_piece_and_byte_by_byte(case: Case) -> None:
    sent_at: list[float] = []
    events = [b"data: %d\n\n" % n for n in range(5)] + [
        b": ping\r\r",
        b"data: \xf0\x9f",
        b"\x98\x80\n\n",
    ]

    def script(talk: Talk) -> None:
        talk.read_body()
        talk.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        talk.send(b"Transfer-Encoding: chunked\r\n\r\n")
        for event in events:
            talk.pause(0.1)
            sent_at.append(monotonic())
            talk.send(b"%x\r\n%b\r\n" % (len(event), event))
        talk.send(b"0\r\n\r\n")

    case.engine.script = script
    answer = case.ask()
    assert answer.header("x-accel-buffering") == "no"
    assert answer.header("content-type") == "text/event-stream"
    assert (answer.whole, [piece for _, piece in answer.pieces]) == (True, events)
    for (came, _), sent in zip(answer.pieces, sent_at, strict=True):
        assert came - sent < 0.05


def test_the_head_of_a_stream_comes_before_its_first_piece(case: Case) -> None:
    case.engine.script = streaming([b"late"], 0, first_s=1.0)
    caller = case.caller()
    began = monotonic()
    caller.send(case.head())
    assert caller.answer(head_only=True).status == 200
    assert monotonic() - began < 0.5


def test_an_engine_that_dies_in_its_stream_leaves_no_final_chunk(case: Case) -> None:
    case.engine.script = streaming([b"one", b"two"], 0.01, end=False)
    caller = case.caller()
    caller.send(case.head())
    data = caller.until_closed()
    assert data.endswith(b"3\r\ntwo\r\n")


@pytest.mark.parametrize(
    ("idle_s", "pauses_s", "right"),
    [
        (0.001, (0.0, 0.003, 0.006), 200),  # often a request and the closing meet on their way
        (0.02, (0.0, 0.002, 0.06), 230),  # and here only where the machine holds somebody up
    ],
)
def test_an_engine_that_closes_idle_connections_gives_no_wrong_answer(
    case: Case, idle_s: float, pauses_s: tuple[float, ...], right: int
) -> None:
    def script(talk: Talk) -> None:
        echo(talk)
        if not talk.speaks_within(idle_s):
            talk.close()

    case.engine.script = script

    def calls(name: int) -> list[Answer]:
        caller = case.caller()
        answers = []
        for number in range(30):
            Event().wait(pauses_s[number % 3])
            caller.send(case.head("POST", f"?{name}-{number}", "Content-Length: 2") + b"{}")
            answers.append(caller.answer("POST"))
            if answers[-1].header("connection") == "close":
                caller = case.caller()
        return answers

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(calls, range(8)))
    for name, of_one in enumerate(answers):
        for number, answer in enumerate(of_one):
            # A request that met the closing of its connection may have been read, so it is not
            # sent again.
            if answer.status != 200:
                assert (answer.status, answer.error["code"]) == (502, "engine_unreachable")
            else:
                assert f'"/v1/completions?{name}-{number}"'.encode() in answer.body
    assert sum(answer.status == 200 for of_one in answers for answer in of_one) >= right
    targets = [got.target for got in case.engine.received]
    assert len(targets) == len(set(targets))


def test_answers_of_many_at_once_do_not_mix(case: Case) -> None:
    case.engine.script = echo

    def calls(name: int) -> bool:
        caller = case.caller()
        for number in range(30):
            body = BIG[: (name * 37 + number * 1013) % 5000]
            head = case.head("POST", f"?{name}-{number}", "Transfer-Encoding: chunked")
            caller.send(head + chunked(body, 1000))
            told = caller.answer("POST").body
            assert f'"/v1/completions?{name}-{number}", "length": {len(body)}'.encode() in told
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(calls, range(16)))


@pytest.mark.parametrize("what", ["tokens flow", "silent in prefill", "not streamed"])
def test_a_caller_who_leaves_ends_the_engines_request_at_once(case: Case, what: str) -> None:
    case.engine.script = {
        "tokens flow": streaming([b"data: x\n\n"] * 1000, 0.01),
        "silent in prefill": streaming([b"data: x\n\n"], 0, first_s=15),
        "not streamed": silent,
    }[what]
    caller = case.caller()
    caller.send(case.head("POST", "", "Content-Length: 2") + b"{}")
    if what != "not streamed":
        caller.answer("POST", head_only=True)
    Event().wait(0.2)
    left = monotonic()
    caller.close()
    assert until(lambda: case.last().gone_at is not None, 3)
    assert case.last().gone_at - left < 0.1


def test_a_caller_who_leaves_in_its_upload_ends_the_engines_request(case: Case) -> None:
    caller = case.caller()
    caller.send(case.head("POST", "", "Content-Length: 100000") + b"x" * 1000)
    Event().wait(0.1)
    left = monotonic()
    caller.close()
    assert until(lambda: case.last().gone_at is not None, 3)
    assert case.last().gone_at - left < 0.1
    assert not case.last().complete


def test_a_caller_who_half_closes_is_told_so_and_ends_the_engines_request(case: Case) -> None:
    # TCP says the same of a caller that has left, and in a silent prefill nothing else is heard.
    case.engine.script = silent
    caller = case.caller()
    caller.send(case.head("POST", "", "Content-Length: 2") + b"{}")
    Event().wait(0.1)
    caller.socket.shutdown(1)
    answer = caller.answer("POST")
    assert (answer.status, answer.error["code"]) == (499, "client_closed_request")
    assert caller.is_closed()
    assert until(lambda: case.last().gone_at is not None, 1)
