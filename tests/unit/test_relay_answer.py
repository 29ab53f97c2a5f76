"""What an engine answers is passed on only if it has one reading, and never as a page of ours."""

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from web.relay.answer import AnswerHead, BadAnswer, Body, answer_head

OK = b"HTTP/1.1 200 OK"
OURS = [
    (b"x-accel-buffering", b"no"),
    (b"content-security-policy", b"sandbox; default-src 'none'"),
    (b"x-content-type-options", b"nosniff"),
]


def head_of(*headers: bytes, start: bytes = OK) -> bytes:
    """Return a head of these lines, as the relay gets it: without the CRLF of the last one."""
    return b"\r\n".join([start, *headers])


def read(*headers: bytes, start: bytes = OK) -> AnswerHead:
    """Return what the head of these lines says."""
    return answer_head(head_of(*headers, start=start))


def by_h11(head: bytes) -> h11.Connection:
    """Return h11 as a client that has asked and has got `head`."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(head)
    return client


def seen_by_caller(answer: AnswerHead, *, last: bool = False) -> list[tuple[bytes, bytes]]:
    """Return the headers that a caller reads, in lower case."""
    event = by_h11(answer.for_caller(answer.length, b"id-1", b"today", last=last)).next_event()
    assert isinstance(event, h11.Response)
    assert event.status_code == answer.status
    return list(event.headers)


# where it ends


@pytest.mark.parametrize(
    ("start", "headers", "body", "length", "reusable"),
    [
        (OK, [b"content-length: 5"], Body.COUNTED, 5, True),
        (OK, [b"Content-Length:\t005 "], Body.COUNTED, 5, True),
        (OK, [b"content-length: 0"], Body.COUNTED, 0, True),
        (OK, [b"transfer-encoding: chunked"], Body.CHUNKED, 0, True),
        (OK, [b"Transfer-Encoding: Chunked"], Body.CHUNKED, 0, True),
        (OK, [], Body.UNTIL_CLOSE, 0, False),
        (OK, [b"content-length: 5", b"connection: close"], Body.COUNTED, 5, False),
        (OK, [b"content-length: 5", b"connection: keep-alive, Close"], Body.COUNTED, 5, False),
        (OK, [b"content-length: 5", b"connection: keep-alive"], Body.COUNTED, 5, True),
        (b"HTTP/1.0 200 OK", [b"content-length: 5"], Body.COUNTED, 5, False),
        (b"HTTP/1.0 200 OK", [], Body.UNTIL_CLOSE, 0, False),
        (b"HTTP/1.1 204 No Content", [], Body.COUNTED, 0, True),
        (b"HTTP/1.1 204 No Content", [b"content-length: 5"], Body.COUNTED, 0, True),
        (b"HTTP/1.1 304 Not Modified", [], Body.COUNTED, 0, True),
        (b"HTTP/1.1 304 Not Modified", [b"content-length: 5"], Body.COUNTED, 0, True),
        (b"HTTP/1.1 404 Not Found", [b"content-length: 5"], Body.COUNTED, 5, True),
    ],
)
def test_where_an_answer_ends(
    start: bytes, headers: list[bytes], body: Body, length: int, *, reusable: bool
) -> None:
    answer = read(*headers, start=start)
    assert (answer.body, answer.length, answer.reusable) == (body, length, reusable)


@pytest.mark.parametrize(
    "headers",
    [
        [b"content-length: 5", b"content-length: 5"],
        [b"content-length: 5", b"Content-Length: 6"],
        [b"content-length: 5, 5"],
        [b"content-length: 5", b"transfer-encoding: chunked"],
        [b"transfer-encoding: chunked", b"transfer-encoding: chunked"],
        [b"transfer-encoding: gzip, chunked"],
        [b"transfer-encoding: chunked, chunked"],
        [b"transfer-encoding: identity"],
        [b"transfer-encoding: chunked;q=1"],
        [b"transfer-encoding:"],
        [b"content-length:"],
        [b"content-length: -5"],
        [b"content-length: +5"],
        [b"content-length: 5_0"],
        [b"content-length: 0x5"],
        [b"content-length: 5 5"],
        [b"content-length: \xb2"],
        [b"content-length: " + b"0" * 15 + b"5"],
        [b"connection: close", b"connection: keep-alive"],
    ],
)
def test_two_ends_are_refused(headers: list[bytes]) -> None:
    with pytest.raises(BadAnswer, match=r"^it(s| has) "):
        read(*headers)


def test_chunks_in_http_1_0_are_refused() -> None:
    with pytest.raises(BadAnswer, match=r"chunked in HTTP/1\.0"):
        read(b"transfer-encoding: chunked", start=b"HTTP/1.0 200 OK")


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1 20",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 600 OK",
        b"HTTP/1.1 20\xb2 OK",
        b"HTTP/1.1 -20 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.1 200OK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 O\x7fK",
        b"HTTP/1.1 200 OK\n",
        b"HTTP/1.1 200 OK\rX: y",
        b"HTTP/2 200",
        b"HTTP/2.0 200 OK",
        b"HTTP/1.2 200 OK",
        b"http/1.1 200 OK",
        b"ICY 200 OK",
        b" HTTP/1.1 200 OK",
        b"\r\nHTTP/1.1 200 OK",
        b"GET / HTTP/1.1",
    ],
)
def test_another_status_line_is_refused(start: bytes) -> None:
    with pytest.raises(BadAnswer, match="not a well-formed HTTP/1 head"):
        read(b"content-length: 5", start=start)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" folded",
        b"\tfolded",
        b"no colon",
        b": no name",
        b"x-a : 1",
        b" x-a: 1",
        b"x a: 1",
        b"x-\xe9: 1",
        b"x(a): 1",
        b"x-a: 1\n",
        b"x-a: 1\nx-b: 2",
        b"x-a: 1\r",
        b"x-a: 1\rx-b: 2",
        b"x-a: \x00",
        b"x-a: \x0b",
        b"x-a: \x7f",
    ],
)
def test_a_malformed_header_is_refused(line: bytes) -> None:
    for headers in ([line], [b"content-length: 5", line], [line, b"content-length: 5"]):
        with pytest.raises(BadAnswer, match="not a well-formed HTTP/1 head"):
            read(*headers)


# what the caller gets


def test_an_answer_is_passed_on_with_our_headers() -> None:
    answer = read(b"Content-Type: application/json", b"content-length: 5", b"X-Model: caf\xe9")
    assert answer.for_caller(5, b"id-1", b"today", last=False) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Model: caf\xe9"
        b"\r\nX-Accel-Buffering: no\r\nContent-Security-Policy: sandbox; default-src 'none'"
        b"\r\nX-Content-Type-Options: nosniff"
        b"\r\nContent-Length: 5\r\nX-Request-Id: id-1\r\nDate: today\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("headers", "framing"),
    [
        ([b"content-length: 5"], (b"content-length", b"5")),
        ([b"transfer-encoding: CHUNKED"], (b"transfer-encoding", b"chunked")),
    ],
)
def test_the_caller_is_told_where_it_ends(
    headers: list[bytes], framing: tuple[bytes, bytes]
) -> None:
    seen = seen_by_caller(read(*headers))
    assert sorted(seen) == sorted([*OURS, framing, (b"x-request-id", b"id-1"), (b"date", b"today")])


def test_a_repeated_answer_has_its_own_length_and_id() -> None:
    answer = read(b"content-length: 5")
    assert b"\r\nContent-Length: 71\r\nX-Request-Id: id-2\r\n" in answer.for_caller(
        71, b"id-2", b"today", last=False
    )


@pytest.mark.parametrize("headers", [[b"content-length: 5"], [b"transfer-encoding: chunked"], []])
def test_a_last_answer_says_that_it_is(headers: list[bytes]) -> None:
    assert (b"connection", b"close") in seen_by_caller(read(*headers), last=True)
    assert b"connection" not in dict(seen_by_caller(read(*headers)))


@pytest.mark.parametrize("start", [b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified"])
@pytest.mark.parametrize("headers", [[], [b"content-length: 5"], [b"transfer-encoding: chunked"]])
def test_an_answer_without_a_body_has_no_length(start: bytes, headers: list[bytes]) -> None:
    seen = dict(seen_by_caller(read(*headers, start=start)))
    assert not {b"content-length", b"transfer-encoding"} & seen.keys()


@pytest.mark.parametrize(
    ("start", "passed_on"),
    [
        (b"HTTP/1.0 200 OK", b"HTTP/1.1 200 OK"),
        (b"HTTP/1.1 200", b"HTTP/1.1 200 "),
        (b"HTTP/1.1 200 ", b"HTTP/1.1 200 "),
        (b"HTTP/1.1 404 Not\tF\xf6und  ", b"HTTP/1.1 404 Not\tF\xf6und  "),
        (b"HTTP/1.1 599 Odd", b"HTTP/1.1 599 Odd"),
    ],
)
def test_a_status_is_passed_on_in_our_version(start: bytes, passed_on: bytes) -> None:
    answer = read(b"content-length: 5", start=start)
    assert answer.for_caller(5, b"id-1", b"today", last=False).startswith(passed_on + b"\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"Server: uvicorn",
        b"date: Mon, 23 Nov 2026 13:00:00 GMT",
        b"Set-Cookie: session=1",
        b"set-cookie2: session=1",
        b"Keep-Alive: timeout=5",
        b"Proxy-Authenticate: Basic",
        b"Proxy-Connection: close",
        b"TE: trailers",
        b"Trailer: X-A",
        b"Upgrade: h2c",
        b"Access-Control-Allow-Origin: *",
        b"access-control-allow-credentials: true",
        b"X-Accel-Redirect: /etc/passwd",
        b"X-Accel-Buffering: yes",
        b"Content-Security-Policy: default-src *",
        b"Content-Security-Policy-Report-Only: default-src *",
        b"X-Content-Type-Options: sniff",
        b"X-Request-Id: other",
        b"Clear-Site-Data: *",
        b"Strict-Transport-Security: max-age=1",
        b"Alt-Svc: h3=evil:443",
    ],
)
def test_such_a_header_of_an_engine_goes_no_further(line: bytes) -> None:
    plain = seen_by_caller(read(b"content-length: 5"))
    for spelling in (line, line.swapcase(), line.partition(b":")[0] + b":"):
        assert seen_by_caller(read(b"content-length: 5", spelling)) == plain


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Type: text/event-stream; charset=utf-8",
        b"Location: http://elsewhere/",
        b"Retry-After: 5",
        b"X-Server: a",
        b"Datex: a",
        b"Cache-Control: no-cache",
        b"x_a: with an underscore",
        b"x-empty:",
    ],
)
def test_any_other_header_is_passed_on_as_it_stands(line: bytes) -> None:
    assert b"\r\n" + line + b"\r\n" in read(line).for_caller(0, b"id-1", b"today", last=False)


def test_headers_for_one_connection_only_go_no_further() -> None:
    answer = read(
        b"X-A: 1", b"X-B: 2", b"Connection: x-a , close,X-C", b"x-c: 3", b"content-length: 5"
    )
    seen = dict(seen_by_caller(answer))
    assert not {b"x-a", b"x-c", b"connection"} & seen.keys()
    assert seen[b"x-b"] == b"2"
    assert seen[b"content-length"] == b"5"
    assert not answer.reusable


@pytest.mark.parametrize("option", [b"content-length", b"x-accel-buffering", b"x-request-id"])
def test_an_engine_cannot_have_our_headers_dropped(option: bytes) -> None:
    seen = dict(seen_by_caller(read(b"content-length: 5", b"connection: " + option)))
    assert option in seen


def test_a_switch_of_protocols_is_one_to_websocket() -> None:
    answer = read(
        b"Upgrade: WebSocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        b"set-cookie: session=1",
        start=b"HTTP/1.1 101 Switching Protocols",
    )
    tunnel = answer.for_tunnel(b"id-1", b"today")
    assert tunnel.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    lines = tunnel.split(b"\r\n")
    assert lines[-2:] == [b"", b""]
    assert b"Connection: Upgrade" in lines
    assert b"Upgrade: websocket" in lines
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in lines
    assert b"X-Request-Id: id-1" in lines
    assert b"cookie" not in tunnel


# properties

_NAMES = st.sampled_from(
    [b"content-length", b"Transfer-Encoding", b"Connection", b"Content-Type", b"Set-Cookie",
     b"Date", b"X-A", b"X-B", b"Upgrade", b"x_a"]
)  # fmt: skip
_VALUES = st.sampled_from(
    [b"", b"0", b"5", b"05", b"5, 5", b"chunked", b"gzip, chunked", b"close", b"keep-alive, x-a",
     b"text/plain", b"a=b", b"caf\xe9"]
)  # fmt: skip
_SPACES = st.sampled_from([b"", b" ", b"\t", b" \t "])
_USUAL = st.sampled_from(
    [(b"content-length", b"5"), (b"transfer-encoding", b"chunked"), (b"Connection", b"close"),
     (b"content-type", b"text/plain"), (b"X-A", b"caf\xe9"), (b"Connection", b"x-a")]
)  # fmt: skip
_LINES = st.builds(
    lambda pair, before, after: b"%b:%b%b%b" % (pair[0], before, pair[1], after),
    _USUAL | _USUAL | st.tuples(_NAMES, _VALUES), _SPACES, _SPACES,
)  # fmt: skip
_STARTS = st.sampled_from(
    [OK, OK, b"HTTP/1.0 200 OK", b"HTTP/1.1 204 No Content", b"HTTP/1.1 304", b"HTTP/1.1 400 \xe9"]
)
_HEADS = st.builds(
    lambda start, lines: head_of(*lines, start=start), _STARTS, st.lists(_LINES, max_size=4)
)
_NASTY_BYTES = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"\r\n ", b"\x00", b"\t", b" ", b":", b",", b"\x0b", b"\x0c", b"\x7f",
     b"\x85", b"\xb2", b"0", b"1", b"HTTP/1.0"]
)  # fmt: skip


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """A head, some bytes of it replaced."""
    head = draw(_HEADS)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(head)))
        upto = min(len(head), at + draw(st.integers(0, 2)))
        head = head[:at] + draw(_NASTY_BYTES) + head[upto:]
    return head


def body_by_h11(client: h11.Connection, status: int, headers: dict[bytes, bytes]) -> Body:
    """Return where h11 takes the answer to end whose head it has read; feeds it a body."""
    assert isinstance(client.next_event(), h11.Response)
    if client.next_event() is not h11.NEED_DATA:
        return Body.COUNTED  # of 0 bytes
    if b"transfer-encoding" in headers:
        client.receive_data(b"1\r\na\r\n0\r\n\r\n")
        body = Body.CHUNKED
    elif b"content-length" in headers:
        client.receive_data(b"a" * int(headers[b"content-length"]))
        body = Body.COUNTED
    else:
        client.receive_data(b"a")
        assert isinstance(client.next_event(), h11.Data)
        assert client.next_event() is h11.NEED_DATA
        client.receive_data(b"")
        body = Body.UNTIL_CLOSE
    events = [client.next_event()]
    while not isinstance(events[-1], h11.EndOfMessage):
        assert isinstance(events[-1], h11.Data), status
        events.append(client.next_event())
    return body


@settings(max_examples=400)
@given(_HEADS | _mutated())
@example(head_of(b"x-a: 1", b"connection: x-a", b"content-length: 05"))
def test_others_read_an_answer_alike(head: bytes) -> None:
    try:
        answer = answer_head(head)
    except BadAnswer:
        return
    if answer.status < 200:
        return
    whole = head + b"\r\n\r\n"
    event = by_h11(whole).next_event()
    assert isinstance(event, h11.Response)
    assert event.status_code == answer.status
    headers = dict(event.headers)
    client = by_h11(whole)
    assert body_by_h11(client, answer.status, headers) is answer.body
    if answer.body is Body.COUNTED and answer.status not in (204, 304):
        assert answer.length == int(headers[b"content-length"])
    if answer.body is Body.UNTIL_CLOSE:
        assert not answer.reusable
    else:
        assert answer.reusable is (client.their_state is h11.DONE)

    passed_on = answer.for_caller(answer.length, b"id-1", b"today", last=False)
    seen = by_h11(passed_on).next_event()
    assert isinstance(seen, h11.Response)
    assert (seen.status_code, seen.reason) == (answer.status, event.reason)
    named = [name for name, _ in seen.headers]
    for name, value in [*OURS, (b"x-request-id", b"id-1"), (b"date", b"today")]:
        assert named.count(name) == 1
        assert (name, value) in list(seen.headers)
    assert not {b"set-cookie", b"connection", b"upgrade"} & set(named)
    assert body_by_h11(by_h11(passed_on), answer.status, dict(seen.headers)) is answer.body


@given(st.binary(max_size=60))
def test_any_bytes_are_an_answer_or_not(head: bytes) -> None:
    with pytest.raises(BadAnswer):
        answer_head(head)
