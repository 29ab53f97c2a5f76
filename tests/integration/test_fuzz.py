"""Requests and answers that nobody thought of, against h11 as a second, strict reader.

More of them: `pytest tests/integration/test_fuzz.py --hypothesis-profile=long`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import h11
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.integration.conformance import (
    Answer,
    Caller,
    Case,
    normal,
    running_way,
    ways,
)
from tests.integration.raw_engine import Talk, echo

fuzzed = settings(
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)

CUT_OFF = "without sending complete message body"  # h11's words for a request given up midway


@pytest.fixture(scope="module", params=ways())
def fuzzed_case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    """Return a case of each way, with deadlines so short that waiting for one is no matter."""
    folder = tmp_path_factory.mktemp(f"fuzz-{request.param}")
    short = {"PROXY_BODY_TIMEOUT": "0.3", "PROXY_HEADER_TIMEOUT": "0.3"}
    with (
        running_way(request.param, folder, **short) as way,
        closing(Case(way)) as case,
    ):
        yield case


# requests


@dataclass(frozen=True)
class Reading:
    """One request, as h11 reads it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    complete: bool = False


@dataclass
class Sent:
    """Bytes to send, and where to pause."""

    data: bytes
    cuts: list[int] = field(default_factory=list)
    plain: bool = True  # nothing in it is odd


_NAMES = ["X-A", "x-b", "X-C", "Accept", "User-Agent", "Content-Type", "X_Under", "Cookie", "TE"]
_VALUES = ["", "1", "a b", "*/*", "a,b", "\t x \t", "\xe9", '"q"', "close", "x" * 300]
_ODD_LINES = [
    b"Content-Length: 3", b"Content-Length: 0", b"Content-Length: 3, 3", b"Content-Length: +3",
    b"content-length:3", b"Content-Length : 3", b"Content-Length:\t3", b"Content-Length: 3 3",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: Chunked", b"Transfer-Encoding:chunked ",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: identity", b"Transfer-Encoding: \x0bchunked", b"transfer_encoding: x",
    b"Connection: close", b"Connection: keep-alive", b"Connection: X-A, close", b"Connection: x",
    b"Expect: 100-continue", b"Upgrade: h2c", b"Host: localhost", b"Host: other",
    b" folded", b"\tfolded", b"X-N: a\x00b", b"X-R: a\rb", b"X-L: a\nb", b"X D: 1", b": x", b"x",
    b"X-E:", b"X-\xe9: 1", b"X-O: \xff", b"", b"Trailer: X-T", b"Content-Encoding: gzip",
]  # fmt: skip
_ODD_TARGETS = ["/../x", "//x", "/%2e%2e", "/%2f", "?a=b;c", "?\\", "#f", "/%", "/a;b"]
_ODD_SIZES = [
    b"3;x", b"3;x=y", b"003", b" 3", b"3 ", b"+3", b"0x3", b"", b"g", b"3;\n", b"f" * 8, b"3;\r",
]  # fmt: skip
_ODD_ENDS = [b"\n", b"\r", b"", b"\r\r\n", b"\n\r\n"]


@st.composite
def a_request(draw: st.DrawFn, path: str, number: int, *, odd: bool) -> bytes:
    """Return one request; a plain one unless `odd`."""
    method = draw(st.sampled_from(["GET", "POST", "POST", "PUT", "DELETE", "HEAD"]))
    target = f"{path}?n={number}"
    lines = [b"Host: localhost"]
    for name in draw(st.lists(st.sampled_from(_NAMES), max_size=4, unique=True)):
        value = draw(st.sampled_from(_VALUES if name.startswith(("X", "x")) else _VALUES[1:4]))
        lines.append(f"{name}: {value}".encode("latin-1"))
    body = draw(st.binary(max_size=40))
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
    lines = draw(st.permutations(lines))
    ends = [b"\r\n"] * (len(lines) + 2)
    version = b"HTTP/1.1"
    if odd:
        for line in draw(st.lists(st.sampled_from(_ODD_LINES), max_size=2)):
            lines.insert(draw(st.integers(0, len(lines))), line)
            ends.append(b"\r\n")
        if draw(st.integers(0, 4)) == 0:
            ends[draw(st.integers(0, len(ends) - 1))] = draw(st.sampled_from(_ODD_ENDS))
        if draw(st.integers(0, 4)) == 0:
            target = f"{path}{draw(st.sampled_from(_ODD_TARGETS))}"
        if draw(st.integers(0, 4)) == 0:
            version = draw(st.sampled_from([b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1"]))
    head = [f"{method} {target} ".encode() + version, *lines, b""]
    written = b"".join(line + end for line, end in zip(head, ends, strict=False))
    return written + draw(_a_body(framing, body, odd=odd))


@st.composite
def _a_body(draw: st.DrawFn, framing: str, body: bytes, *, odd: bool) -> bytes:
    if framing != "chunked":
        return body if framing == "length" else b""
    at = draw(st.integers(0, len(body)))
    chunks = [piece for piece in (body[:at], body[at:]) if piece]
    written = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in chunks] + [b"0\r\n"]
    if odd and draw(st.booleans()):
        size = draw(st.sampled_from(_ODD_SIZES))
        end = draw(st.sampled_from([b"\r\n", b"\r\n", *_ODD_ENDS]))
        written.insert(draw(st.integers(0, len(written))), size + b"\r\nabc" + end)
    if odd and draw(st.booleans()):
        written.append(
            draw(st.sampled_from([b"X-T: 1\r\n", b"Content-Length: 3\r\n", b"x\n", b"0"]))
        )
    return b"".join([*written, b"\r\n"])


@st.composite
def traffic(draw: st.DrawFn, path: str = "PATH") -> Sent:
    """Return one to three requests in a row, at most one of them odd, a byte of it changed."""
    count = draw(st.integers(1, 3))
    odd_one = draw(st.integers(-1, count - 1))
    parts = [draw(a_request(path, n, odd=n == odd_one)) for n in range(count)]
    plain = odd_one < 0
    if not plain and draw(st.booleans()):
        data = bytearray(parts[odd_one])
        at = draw(st.integers(0, len(data) - 1))
        kind = draw(st.sampled_from(["change", "insert", "remove"]))
        byte = draw(st.sampled_from(b"\r\n\0\t :;,0a\x7f\xff"))
        if kind == "change":
            data[at] = byte
        elif kind == "insert":
            data.insert(at, byte)
        else:
            del data[at]
        parts[odd_one] = bytes(data)
    whole = b"".join(parts)
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(whole) - 1)), max_size=4)))
    return Sent(whole, cuts, plain)


def requests_in(data: bytes) -> list[Reading]:
    """Return the requests that h11 finds in `data`; the last one may be incomplete."""
    found: list[Reading] = []
    while data := data.removeprefix(b"\r\n"):  # one is to be ignored: RFC 9112, section 2.2
        http = h11.Connection(h11.SERVER)
        http.receive_data(data)
        try:
            try:
                event = http.next_event()
            except h11.RemoteProtocolError as error:
                if "Missing mandatory Host" not in str(error):
                    raise
                # Where it ends is clear all the same: it is refused, and the next one is not.
                line, end, rest = data.partition(b"\n")
                target = line.split(b" ")[1]
                line = line.replace(target, _REFUSED)
                http = h11.Connection(h11.SERVER)
                http.receive_data(line + end + b"Host: x\r\n" + rest)
                event = http.next_event()
            if not isinstance(event, h11.Request):
                return found
            headers = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
            reading = Reading(event.method.decode(), event.target.decode("latin-1"), headers)
            found.append(reading)
            body = b""
            while isinstance(event := http.next_event(), h11.Data):
                body += event.data
        except h11.RemoteProtocolError:
            return found
        if not isinstance(event, h11.EndOfMessage):
            return found
        found[-1] = Reading(reading.method, reading.target, headers, body, complete=True)
        data = http.trailing_data[0]
    return found


_REFUSED = b"/refused"
_NOT_COMPARED = {
    "host", "authorization", "content-length", "transfer-encoding", "connection", "x-request-id",
    "cookie", "x-api-key", "expect", "te", "trailer", "upgrade", "keep-alive", "proxy-connection",
}  # fmt: skip


def seen_by_an_engine(headers: list[tuple[str, str]]) -> dict[str, str]:
    """Return the headers that must reach an engine as they are."""
    named = {
        option.strip().lower()
        for name, value in headers
        if name.lower() == "connection"
        for option in value.split(",")
    }
    return {
        name: value.replace(" ", "").replace("\t", "")
        for name, value in normal(headers).items()
        if name not in _NOT_COMPARED | named and "_" not in name
    }


def answers_to(caller: Caller, readings: list[Reading]) -> list[Answer]:
    """Return the answers that come, at most one for each request and one more."""
    found: list[Answer] = []
    for method in [reading.method for reading in readings] + ["GET"]:
        # Without another request to answer only a refusal can come, and it need not.
        if len(found) == len([r for r in readings if r.complete]):
            caller.socket.settimeout(0.05)
        try:
            found.append(caller.answer(method))
        except (AssertionError, TimeoutError):
            return found
    return found


@fuzzed
@given(sent=traffic())
@example(sent=Sent(b"POST PATH HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"))
def test_an_engine_gets_what_a_strict_reader_reads_or_nothing(
    fuzzed_case: Case, sent: Sent
) -> None:
    case = fuzzed_case
    case.engine.script = echo
    case.engine.forget()
    data = sent.data.replace(b"PATH", case.path.encode())
    prefix = f"/proxy/{case.instance_id}"
    readings = requests_in(data)

    with closing(Caller(case.way.address)) as caller:
        at = 0
        for cut in [*sent.cuts, len(data)]:
            caller.send(data[at:cut])
            at = cut
        answers = answers_to(caller, readings)
    assert case.ask("GET", "?after").status == 200  # whatever that was, the next one is served
    case.leave()

    for answer in answers:
        assert answer.status == 200 or 400 <= answer.status < 500 or answer.status == 501, answer
        if answer.status != 200 and answer.body:
            assert answer.error
    got = [one for one in case.engine.received if not one.target.endswith("?after")]
    left = iter(readings)
    for one in got:
        reading = next((r for r in left if r.target.removeprefix(prefix) == one.target), None)
        assert reading is not None, (one, readings)
        assert one.method == reading.method
        assert seen_by_an_engine(one.headers) == seen_by_an_engine(reading.headers)
        if one.complete:
            assert (one.body, reading.complete) == (reading.body, True)
    assert not [fault for fault in case.engine.faults if CUT_OFF not in fault]
    if sent.plain:
        assert [answer.status for answer in answers] == [200] * len(readings)
        assert len(got) == len(readings)


# answers


_ODD_ANSWER_LINES = [
    b"Content-Length: 3", b"Content-Length: 5", b"Content-Length: 3, 3", b"Content-Length: +3",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Transfer-Encoding: Chunked",
    b"Connection: close", b"Connection: X-A", b"Set-Cookie: a=b", b" folded", b"X-N: a\x00b",
    b"X-R: a\rb", b"X-L: a\nb", b"X-C: a\x01b", b"X D: 1", b": x", b"x", b"X-E:", b"X-\xe9: 1",
    b"Upgrade: websocket", b"Trailer: X-T", b"Server: x", b"Date: x",
]  # fmt: skip


@dataclass
class Spoken:
    """What an engine says, and where it pauses."""

    data: bytes
    cuts: list[int]


@st.composite
def an_answer(draw: st.DrawFn) -> Spoken:
    """Return an answer with something odd in it, perhaps."""
    status = draw(
        st.sampled_from([b"200 OK", b"404 Not Found", b"204 No Content", b"304 x", b"500"])
    )
    body = draw(st.binary(max_size=60))
    framing = draw(st.sampled_from(["length", "chunked", "none"]))
    lines = [b"X-A: 1", b"Content-Type: a/b"]
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
    for line in draw(st.lists(st.sampled_from(_ODD_ANSWER_LINES), max_size=2)):
        lines.insert(draw(st.integers(0, len(lines))), line)
    written = b"HTTP/1.1 " + status + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    written += draw(_a_body(framing, body, odd=draw(st.booleans()))) if framing != "none" else body
    if draw(st.integers(0, 3)) == 0:
        data = bytearray(written)
        data[draw(st.integers(0, len(data) - 1))] = draw(st.sampled_from(b"\r\n\0\t :;,0a\x7f\xff"))
        written = bytes(data)
    if draw(st.integers(0, 5)) == 0:
        written += b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    if draw(st.integers(0, 5)) == 0:
        written = written[: draw(st.integers(0, len(written)))]
    return Spoken(written, sorted(draw(st.sets(st.integers(1, max(1, len(written))), max_size=3))))


def answer_in(data: bytes) -> tuple[Answer | None, bool]:
    """Return the answer that h11 finds in `data` before the connection ends, and if it is right."""
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    http.send(h11.EndOfMessage())
    http.receive_data(data)
    answer: Answer | None = None
    ended = False
    try:
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA and not ended:
                http.receive_data(b"")
                ended = True
            elif isinstance(event, h11.Response):
                headers = [(n.decode(), v.decode("latin-1")) for n, v in event.headers]
                answer = Answer(event.status_code, headers)
            elif isinstance(event, h11.Data) and answer is not None:
                answer.body += event.data
            elif isinstance(event, h11.EndOfMessage) and answer is not None:
                answer.whole = True
                return answer, not ended
            elif not isinstance(event, h11.InformationalResponse):
                return answer, False
    except h11.RemoteProtocolError:
        return answer, False


_NOT_RETURNED = {
    "connection", "keep-alive", "transfer-encoding", "content-length", "upgrade", "trailer",
    "server", "date", "set-cookie", "x-accel-buffering", "content-security-policy",
    "x-content-type-options", "x-request-id",
}  # fmt: skip


@fuzzed
@given(spoken=an_answer())
def test_a_caller_gets_the_engines_answer_or_an_error_and_never_anothers(
    fuzzed_case: Case, spoken: Spoken
) -> None:
    case = fuzzed_case
    case.engine.forget()
    expected, goes_on = answer_in(spoken.data)

    def script(talk: Talk) -> None:
        talk.read_body()
        if talk.request.target.endswith("?next"):
            talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext")
            return
        at = 0
        for cut in [*spoken.cuts, len(spoken.data)]:
            talk.send(spoken.data[at:cut])
            at = max(at, cut)
        if not goes_on:
            talk.close()

    case.engine.script = script
    with closing(Caller(case.way.address)) as caller:
        caller.send(case.head("GET", "?first"))
        answer = caller.answer()
        if answer.whole and (answer.header("connection") or "").lower() != "close":
            caller.send(case.head("GET", "?next"))
            assert caller.answer().body == b"next"
    with closing(Caller(case.way.address)) as caller:
        caller.send(case.head("GET", "?next"))
        assert caller.answer().body == b"next"

    assert [got.target for got in case.engine.received].count("/v1/completions?first") == 1
    if answer.status in (502, 504) and answer.header("content-type") == "application/json":
        assert answer.error["code"].startswith("engine_")
        return
    assert expected is not None
    assert answer.status == expected.status
    assert expected.body.startswith(answer.body)
    if answer.whole:
        assert expected.whole
        assert answer.body == expected.body
        named = (normal(expected.headers).get("connection") or "").lower().split(",")
        hidden = _NOT_RETURNED | {name.strip() for name in named}
        wanted = {k: v for k, v in normal(expected.headers).items() if k not in hidden}
        got = {k: v for k, v in normal(answer.headers).items() if k not in hidden}
        assert got == wanted
