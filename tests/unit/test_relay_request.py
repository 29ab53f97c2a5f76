"""A plain request means one thing to everybody; whatever could mean two goes to a full parser."""

import h11
import pytest
from gunicorn.config import Config
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from hypothesis import example, given, settings
from hypothesis import strategies as st

from web.relay.request import PlainRequest, plain_request

START = b"POST /proxy/tiny-aaaaaaaa/v1/chat/completions HTTP/1.1"
HOST = b"Host: 127.0.0.1:5000"
NEVER_FOR_THE_ENGINE = frozenset(
    {
        b"authorization", b"cookie", b"x-api-key",
        b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port",
        b"x-forwarded-proto", b"x-forwarded-server", b"x-real-ip", b"x-client-ip",
        b"cf-connecting-ip",
        b"host", b"content-length", b"x-request-id",  # the relay says its own
        b"connection", b"upgrade",
    }
)  # fmt: skip


def head_of(*headers: bytes, start: bytes = START, host: bytes | None = HOST) -> bytes:
    """Return a head of these lines, as the relay gets it: without the CRLF of the last one."""
    return b"\r\n".join([start, *([] if host is None else [host]), *headers])


def to(target: bytes, method: bytes = b"GET") -> bytes:
    """Return the head of a request to `target`."""
    return head_of(start=b"%b %b HTTP/1.1" % (method, target))


def plain(*headers: bytes, start: bytes = START) -> PlainRequest:
    """Return what the head of these lines says; it is plain."""
    request = plain_request(head_of(*headers, start=start))
    assert request is not None
    return request


# what it says


def test_a_plain_request_is_read_whole() -> None:
    request = plain(
        b"Accept: application/json",
        b"Content-Type: application/json",
        b"Content-Length: 17",
        b"authorization: Bearer vfm_x",
        b"X-Request-ID: run.1_a-b",
        start=b"POST /proxy/tiny-aaaaaaaa/v1/completions?a=1 HTTP/1.1",
    )
    assert request == PlainRequest(
        method=b"POST",
        instance_id="tiny-aaaaaaaa",
        path="/v1/completions",
        target=b"/v1/completions?a=1",
        headers=b"\r\nAccept: application/json\r\nContent-Type: application/json",
        length=17,
        keep_alive=True,
        websocket=False,
        host=b"127.0.0.1:5000",
        token=b"vfm_x",
        request_id=b"run.1_a-b",
        from_elsewhere=False,
    )


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/models",
        b"/v1/models?",
        b"/v1/models?a=%2F..//\\&b=[1]|{}",
        b"/v1/responses/resp_0a-b.c/cancel",
        b"/v2/embed",
    ],
)
def test_the_engine_gets_the_target_as_it_stands(target: bytes) -> None:
    request = plain(start=b"GET /proxy/tiny-aaaaaaaa%b HTTP/1.1" % target)
    assert request.target == target
    assert request.path == target.partition(b"?")[0].decode()


@pytest.mark.parametrize(
    ("value", "length"), [(b" 0", 0), (b"7", 7), (b"\t007 ", 7), (b" 999999999999999", 10**15 - 1)]
)
def test_a_length_is_digits(value: bytes, length: int) -> None:
    assert plain(b"Content-Length:" + value).length == length


def test_without_a_length_there_is_no_body() -> None:
    assert plain().length is None


@pytest.mark.parametrize(
    ("line", "keep_alive"),
    [
        (b"Connection: keep-alive", True),
        (b"Connection: Keep-Alive", True),
        (b"Connection:", True),
        (b"Connection: close", False),
        (b"CONNECTION:\tClose ", False),
    ],
)
def test_a_caller_may_say_whether_it_goes_on(line: bytes, keep_alive: bool) -> None:
    assert plain(line).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("lines", "token"),
    [
        ([], None),
        ([b"Authorization: Bearer vfm_x"], b"vfm_x"),
        ([b"authorization:bearer  vfm_x "], b"vfm_x"),
        ([b"X-API-Key: vfm_x"], b"vfm_x"),
        ([b"Authorization: Basic dTpw", b"x-api-key: vfm_x"], b"vfm_x"),
        ([b"Authorization: Bearer", b"x-api-key: vfm_x"], b"vfm_x"),
        ([b"Authorization: Bearer vfm_x", b"x-api-key:"], b"vfm_x"),
        ([b"Authorization: Basic dTpw"], None),
        ([b"Authorization: BearerX vfm_x"], None),
        ([b"Authorization:", b"x-api-key: "], None),
    ],
)
def test_a_key_comes_in_one_of_two_headers(lines: list[bytes], token: bytes | None) -> None:
    assert plain(*lines).token == token


def test_two_keys_are_not_plain() -> None:
    lines = head_of(b"Authorization: Bearer vfm_x", b"x-api-key: vfm_y")
    assert plain_request(lines) is None


@pytest.mark.parametrize(
    ("value", "request_id"),
    [
        (b"a" * 128, b"a" * 128),
        (b"a" * 129, None),
        (b"", None),
        (b"a b", None),
        (b"a\xe9", None),
        (b'"; rm', None),
    ],
)
def test_a_callers_id_is_taken_only_if_it_is_plain(value: bytes, request_id: bytes | None) -> None:
    request = plain(b"X-Request-Id: " + value)
    assert request.request_id == request_id
    assert request.headers == b""


@pytest.mark.parametrize(
    "line",
    [
        b"Forwarded: for=127.0.0.1",
        b"Via: 1.1 nginx",
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-Host: x",
        b"X-Forwarded-Port: 1",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Server: x",
        b"x-real-ip: 127.0.0.1",
        b"X-Client-IP: 127.0.0.1",
        b"CF-Connecting-IP: 127.0.0.1",
        b"Origin: null",
        b"Sec-Fetch-Site: none",
        b"Via:",
    ],
)
def test_what_pages_and_proxies_add_is_noticed(line: bytes) -> None:
    assert plain(line).from_elsewhere
    assert not plain(b"Accept: */*").from_elsewhere


def test_a_callers_secrets_and_whereabouts_are_not_for_the_engine() -> None:
    request = plain(
        b"Accept: text/event-stream",
        b"Cookie: session=1",
        b"X-API-Key: vfm_x",
        b"Api-Key: vfm_x",
        b"Cookie2: $Version=1",
        b"AUTHORIZATION: Basic dTpw",
        b"X-FORWARDED-FOR: 10.0.0.1",
        b"forwarded: for=10.0.0.1",
        b"x-real-ip: 10.0.0.1",
    )
    assert request.headers == b"\r\nAccept: text/event-stream"


def test_a_websocket_handshake_is_plain() -> None:
    start = b"GET /proxy/tiny-aaaaaaaa/v1/realtime?model=m HTTP/1.1"
    lines = [
        b"Connection: keep-alive, Upgrade",
        b"Upgrade: WebSocket",
        b"Sec-WebSocket-Version: 13",
    ]
    request = plain(*lines, start=start)
    assert request.websocket
    assert request.headers == b"\r\nSec-WebSocket-Version: 13"


# what is not plain


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/",
        b"/v1",
        b"/v1/",
        b"/v1/models/",
        b"/v3/models",
        b"/metrics",
        b"/v1x/models",
        b"/v1/../metrics",
        b"/v1/..",
        b"/v1/.",
        b"/v1/./models",
        b"/v1/.hidden",
        b"//v1/models",
        b"/v1//models",
        b"/v1/models//",
        b"/v1/a%20b",
        b"/v1/%2e%2e/metrics",
        b"/v1%2Fmodels",
        b"/v1/a\\b",
        b"/v1/a\x00b",
        b"/v1/a\tb",
        b"/v1/a b",
        b"/v1/a;b",
        b"/v1/a~b",
        b"/v1/caf\xc3\xa9",
        b"/v1/models#x",
        b"/v1/models?a#x",
        b"/v1/models?a b",
        b"/v1/models?\xe9",
        b"/v1/models?a\x00",
        b"/v1/models?\x7f",
    ],
)
def test_a_target_that_is_not_plain_is_not(path: bytes) -> None:
    assert plain_request(to(b"/proxy/tiny-aaaaaaaa" + path)) is None


@pytest.mark.parametrize(
    "target",
    [
        b"*",
        b"/",
        b"/proxy/v1/models",
        b"/proxy//v1/models",
        b"/proxy/Tiny/v1/models",
        b"/proxy/tiny_a/v1/models",
        b"/proxy/%74iny/v1/models",
        b"/proxy/" + b"a" * 64 + b"/v1/models",
        b"/PROXY/tiny-aaaaaaaa/v1/models",
        b"//proxy/tiny-aaaaaaaa/v1/models",
        b"/./proxy/tiny-aaaaaaaa/v1/models",
        b"http://fleet/proxy/tiny-aaaaaaaa/v1/models",
        b"fleet:443",
    ],
)
def test_a_target_elsewhere_is_not_plain(target: bytes) -> None:
    assert plain_request(to(target)) is None


@pytest.mark.parametrize(
    "method", [b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"get", b"Post", b"", b" GET"]
)
def test_only_get_and_post_are_plain(method: bytes) -> None:
    assert plain_request(to(b"/proxy/tiny-aaaaaaaa/v1/models", method)) is None


@pytest.mark.parametrize(
    "start",
    [
        START[:-1] + b"0",
        START[:-1] + b"2",
        START[:-3] + b"2.0",
        START.replace(b"HTTP", b"http"),
        START[:-9],
        START + b" ",
        b" " + START,
        b"\r\n" + START,
        START.replace(b" ", b"  ", 1),
        START.replace(b" ", b"\t", 1),
    ],
)
def test_another_request_line_is_not_plain(start: bytes) -> None:
    assert plain_request(head_of(start=start)) is None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" folded",
        b"\tfolded",
        b"no colon",
        b": no name",
        b"X-A : 1",
        b" X-A: 1",
        b"X A: 1",
        b"X_A: 1",
        b"X-\xe9: 1",
        b"X-A: 1\n",
        b"X-A: 1\nX-B: 2",
        b"X-A: 1\r",
        b"X-A: 1\rX-B: 2",
        b"X-A: \x00",
        b"X-A: \x0b",
        b"X-A: \x7f",
        b"Content-Length: ",
        b"Content-Length: -1",
        b"Content-Length: +1",
        b"Content-Length: 1,1",
        b"Content-Length: 1 1",
        b"Content-Length: 0x1",
        b"Content-Length: 1_0",
        b"Content-Length: \xb2",
        b"Content-Length: " + b"0" * 15 + b"1",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: identity",
        b"transfer-encoding:",
        b"Expect: 100-continue",
        b"TE: trailers",
        b"Trailer: X-A",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Authorization: Basic dTpw",
        b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
        b"Connection: close, X-A",
        b"Connection: keep-alive, close",
        b"Connection: X-A",
        b"Connection: Upgrade",
        b"Upgrade: h2c",
        b"Upgrade: websocket",
    ],
)
def test_a_head_with_such_a_line_is_not_plain(line: bytes) -> None:
    assert plain_request(head_of(line)) is None
    assert plain_request(head_of(line, b"Accept: */*")) is None


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Length: 5",
        b"Content-Type: text/plain",
        b"Authorization: Basic dTpw",
        b"Connection: close",
        b"X-API-Key: vfm_x",
        b"X-Request-Id: a",
        b"X-Request-Id:",
    ],
)
def test_a_header_that_may_stand_once_stands_once(line: bytes) -> None:
    assert plain_request(head_of(line)) is not None
    assert plain_request(head_of(line, line)) is None
    assert (
        plain_request(head_of(line, b"Accept: */*", line.partition(b":")[0].upper() + b":")) is None
    )
    assert plain_request(head_of(HOST)) is None


@pytest.mark.parametrize("host", [None, b"Host:", b"Host: \t"])
def test_a_request_without_a_host_is_not_plain(host: bytes | None) -> None:
    assert plain_request(head_of(b"Accept: */*", host=host)) is None


@pytest.mark.parametrize(
    ("method", "lines"),
    [
        (b"POST", [b"Connection: Upgrade", b"Upgrade: websocket"]),
        (b"GET", [b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 0"]),
        (b"GET", [b"Connection: Upgrade", b"Upgrade: websocket, h2c"]),
        (b"GET", [b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: websocket"]),
        (b"GET", [b"Connection: Upgrade, X-A", b"Upgrade: websocket"]),
        (b"GET", [b"Connection: close, Upgrade", b"Upgrade: websocket"]),
        (b"GET", [b"Connection: keep-alive", b"Upgrade: websocket"]),
        (b"GET", [b"Connection: Upgrade", b"Upgrade:"]),
    ],
)
def test_an_odd_handshake_is_not_plain(method: bytes, lines: list[bytes]) -> None:
    start = b"%b /proxy/tiny-aaaaaaaa/v1/realtime HTTP/1.1" % method
    assert plain_request(head_of(*lines, start=start)) is None


# limits: those of gunicorn, so that a request is not refused for going the other way


def test_a_head_has_up_to_100_headers() -> None:
    assert plain_request(head_of(*[b"X-A: 1"] * 99)) is not None
    assert plain_request(head_of(*[b"X-A: 1"] * 100)) is None


def test_a_line_is_up_to_8188_bytes_long() -> None:
    longest = b"X-A: ".ljust(8188, b"a")
    assert plain_request(head_of(longest)) is not None
    assert plain_request(head_of(longest + b"a")) is None


def test_a_request_line_is_up_to_4094_bytes_long() -> None:
    longest = b"/proxy/tiny-aaaaaaaa/v1/models?".ljust(4094 - len(b"GET  HTTP/1.1"), b"a")
    assert plain_request(to(longest)) is not None
    assert plain_request(to(longest + b"a")) is None


# properties

_NASTY_BYTES = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"\r\n ", b"\x00", b"\t", b" ", b":", b",", b"%", b"/", b"//", b"..",
     b"#", b"?", b"\\", b"_", b"\x0b", b"\x0c", b"\x1c", b"\x7f", b"\x85", b"\xa0", b"\xb2",
     b"\xe9", b"0", b"GET", b"HTTP/1.1"]
)  # fmt: skip
_NAMES = st.sampled_from(
    [b"Accept", b"Content-Type", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Host",
     b"Upgrade", b"Authorization", b"X-API-Key", b"Cookie", b"X-Request-Id", b"Expect", b"TE",
     b"Content_Length"]
)  # fmt: skip
_VALUES = st.sampled_from(
    [b"", b"0", b"5", b"1, 1", b"close", b"keep-alive", b"upgrade", b"websocket", b"chunked",
     b"Bearer abc", b"a b", b"\xb2"]
)  # fmt: skip
_SPACES = st.sampled_from([b"", b" ", b"\t", b" \t "])
_CASES = st.sampled_from([bytes.lower, bytes.upper, bytes.swapcase])
_USUAL = st.sampled_from(
    [(b"Accept", b"*/*"), (b"Content-Type", b"application/json"), (b"Content-Length", b"05"),
     (b"Connection", b"close"), (b"Connection", b"keep-alive"), (b"Authorization", b"Bearer abc"),
     (b"Cookie", b"a=b"), (b"X-Request-Id", b"a b"), (b"X-Forwarded-For", b"10.0.0.1"),
     (b"X-Forwarded-Proto", b"https"), (b"X-A", b"caf\xe9"), (b"X-A", b"")]
)  # fmt: skip
_LINES = st.builds(
    lambda pair, case, before, after: b"%b:%b%b%b" % (case(pair[0]), before, pair[1], after),
    _USUAL | _USUAL | _USUAL | st.tuples(_NAMES, _VALUES), _CASES, _SPACES, _SPACES,
)  # fmt: skip
_STARTS = st.builds(
    lambda method, rest: b"%b /proxy/tiny-aaaaaaaa%b HTTP/1.1" % (method, rest),
    st.sampled_from([b"GET", b"POST"]),
    st.sampled_from([b"/v1/models", b"/v1/a/b.c?d=/../%00", b"/v2/embed?", b"/v1/realtime"]),
)
_HEADS = st.builds(
    lambda start, lines: head_of(*lines, start=start), _STARTS, st.lists(_LINES, max_size=4)
)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """A head that is nearly plain: some bytes of it replaced."""
    head = draw(_HEADS)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(head)))
        upto = min(len(head), at + draw(st.integers(0, 2)))
        head = head[:at] + draw(_NASTY_BYTES) + head[upto:]
    return head


def by_h11(head: bytes) -> h11.Request:
    """Return what h11 reads as a server; it fails if that is not one whole request."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(head + b"\r\n\r\n")
    request = server.next_event()
    assert isinstance(request, h11.Request)
    assert not server.trailing_data[0]
    return request


def by_gunicorn(head: bytes) -> Request:
    """Return what gunicorn reads, configured as configs/gunicorn.conf.py does."""
    config = Config()
    config.set("forwarded_allow_ips", "")
    return Request(config, IterUnreader([head + b"\r\n\r\n"]), ("127.0.0.1", 1))


def length_of(headers: list[tuple[bytes, bytes]]) -> int | None:
    """Return the one Content-Length, if there is one."""
    lengths = [int(value) for name, value in headers if name == b"content-length"]
    assert len(lengths) <= 1
    return lengths[0] if lengths else None


def sent_on(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return what an engine gets of a caller's headers; Content-Type last, if it says one."""
    kept = [(name, value) for name, value in headers if name not in NEVER_FOR_THE_ENGINE]
    types = [(name, value) for name, value in kept if name == b"content-type" and value]
    return [pair for pair in kept if pair[0] != b"content-type"] + types


@settings(max_examples=500)
@given(_HEADS | _mutated())
@example(head_of())
@example(head_of(b"Content-Length: 05\t", b"X-A:a\tb \xff"))
@example(
    head_of(b"Connection: upgrade", b"Upgrade: websocket", start=START.replace(b"POST", b"GET"))
)
def test_others_read_a_plain_request_alike(head: bytes) -> None:
    request = plain_request(head)
    if request is None:
        return
    read, read_too = by_h11(head), by_gunicorn(head)
    headers = list(read.headers)

    target = b"/proxy/%b%b" % (request.instance_id.encode(), request.target)
    assert (read.method, read.target, read.http_version) == (request.method, target, b"1.1")
    assert (read_too.method.encode(), read_too.uri.encode()) == (request.method, target)
    assert read_too.version == (1, 1)
    assert [
        (name.lower().encode(), value.encode("latin-1")) for name, value in read_too.headers
    ] == [(name, value) for name, value in headers]

    assert request.length == length_of(headers)
    assert read_too.body.reader.length == (request.length or 0)
    assert read_too.should_close() is not request.keep_alive
    assert request.host == dict(headers)[b"host"]

    engine = by_h11(b"GET / HTTP/1.1\r\nHost: engine" + request.headers)
    assert list(engine.headers)[1:] == sent_on(headers)


@settings(max_examples=500)
@given(_HEADS | _mutated())
def test_a_plain_target_is_a_path_and_nothing_else(head: bytes) -> None:
    request = plain_request(head)
    if request is None:
        return
    assert head.split(b" ")[1] == b"/proxy/" + request.instance_id.encode() + request.target
    segments = request.path.split("/")[1:]
    assert segments[0] in ("v1", "v2")
    assert all(segment and segment[0] != "." for segment in segments)
    assert not set(request.path) & set("%\\?#;~ \t\0")
    assert b"#" not in request.target


@given(st.binary(max_size=60))
def test_any_bytes_are_plain_or_not(head: bytes) -> None:
    assert plain_request(head) is None


@pytest.mark.parametrize(
    ("offered", "passed_on"),
    [
        (b"realtime, openai-insecure-api-key.vfm_secret, x.v1", b": realtime, x.v1"),
        (b"OpenAI-Insecure-API-Key.vfm_secret", b""),
        (b"realtime", b": realtime"),
    ],
)
def test_a_key_among_the_subprotocols_stays_here(offered: bytes, passed_on: bytes) -> None:
    request = plain_request(
        b"GET /proxy/i1/v1/realtime HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Protocol: " + offered
    )
    assert request is not None
    assert b"vfm_secret" not in request.headers
    assert request.headers == (b"\r\nSec-WebSocket-Protocol" + passed_on if passed_on else b"")


def test_more_headers_than_are_taken_are_not_plain() -> None:
    head = b"GET /proxy/i1/v1/models HTTP/1.1\r\nHost: x\r\nA: 1\r\nB: 2"
    assert plain_request(head, 3) is not None
    assert plain_request(head, 2) is None


# requests for models


FOR_A_MODEL = b"POST /v1/chat/completions HTTP/1.1"
JSON = b"Content-Type: application/json; charset=utf-8"


def test_json_of_known_length_for_a_model_is_plain() -> None:
    request = plain(JSON, b"Content-Length: 17", b"X-Session-ID: s 1", start=FOR_A_MODEL)
    assert (request.instance_id, request.path) == ("", "/v1/chat/completions")
    assert (request.model, request.session, request.length) == ("", b"s 1", 17)
    assert b"X-Session-ID: s 1" in request.headers


def test_a_form_of_known_length_is_plain_and_noted() -> None:
    form = b"Content-Type: multipart/form-data; boundary=x"
    assert plain(form, b"Content-Length: 2", start=FOR_A_MODEL).in_form
    assert not plain(JSON, b"Content-Length: 2", start=FOR_A_MODEL).in_form
    assert not plain(form, b"Content-Length: 2").in_form


def test_a_websocket_for_a_model_says_it_in_the_query() -> None:
    upgrade = (b"Connection: Upgrade", b"Upgrade: websocket")
    request = plain(*upgrade, start=b"GET /v1/realtime?a=b&model=org%2Fm HTTP/1.1")
    assert (request.model, request.websocket) == ("org/m", True)
    assert request.target == b"/v1/realtime?a=b&model=org%2Fm"
    assert plain_request(head_of(*upgrade, start=b"GET /v1/realtime HTTP/1.1")) is None


@pytest.mark.parametrize("path", [b"/proxy/i1/v1/responses", b"/v1/responses"])
def test_what_makes_a_response_is_noted(path: bytes) -> None:
    start = b"POST %b HTTP/1.1" % path
    assert plain(JSON, b"Content-Length: 2", start=start).makes_response
    other = b"POST %b/resp_1/cancel HTTP/1.1" % path
    found = plain_request(head_of(JSON, b"Content-Length: 2", start=other))
    assert found is None or not found.makes_response


@pytest.mark.parametrize(
    "head",
    [
        head_of(JSON, start=FOR_A_MODEL),  # of no known length
        head_of(b"Content-Length: 2", start=FOR_A_MODEL),
        head_of(b"Content-Type: text/plain", b"Content-Length: 2", start=FOR_A_MODEL),
        head_of(b"Content-Type: multipart/form-data", start=FOR_A_MODEL),
        head_of(JSON, b"Content-Length: 2", start=b"POST /v1/completions?model=m HTTP/1.1"),
        head_of(JSON, b"Content-Length: 2", start=b"POST /v1/responses/resp_1 HTTP/1.1"),
        head_of(JSON, b"Content-Length: 2", start=b"POST /v1/models HTTP/1.1"),
        head_of(JSON, b"Content-Length: 2", start=b"POST /v1 HTTP/1.1"),
        head_of(JSON, b"Content-Length: 2", start=b"POST /rerank HTTP/1.1"),
        head_of(JSON, b"Content-Length: 2", start=b"POST /proxy/v1/completions HTTP/1.1"),
        to(b"/v1/models"),
        to(b"/v1/models/org"),
        to(b"/v1/responses/resp_1"),
        to(b"/v1/completions?model=m"),
    ],
)
def test_the_view_takes_all_else_that_is_for_a_model(head: bytes) -> None:
    assert plain_request(head) is None
