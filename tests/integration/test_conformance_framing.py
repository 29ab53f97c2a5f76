"""Where a request ends: never two readings of one byte stream.

Each fault is followed by a request that only a second reading would find.
"""

from __future__ import annotations

import pytest

from tests.integration.conformance import Answer, Case
from tests.integration.raw_engine import echo

CHUNKS = b"3\r\nabc\r\n0\r\n\r\n"

HEADS: dict[str, tuple[list[str], bytes]] = {
    "two lengths": (["Content-Length: 3", "Content-Length: 5"], b"abcde"),
    "equal lengths": (["Content-Length: 3", "Content-Length: 3"], b"abc"),
    "a list of lengths": (["Content-Length: 3,5"], b"abcde"),
    "a list of equal lengths": (["Content-Length: 3, 3"], b"abc"),
    "length, chunked": (["Content-Length: 3", "Transfer-Encoding: chunked"], CHUNKS),
    "chunked, length": (["Transfer-Encoding: chunked", "Content-Length: 3"], CHUNKS),
    "length 0, chunked": (["Content-Length: 0", "Transfer-Encoding: chunked"], CHUNKS),
    "length +3": (["Content-Length: +3"], b"abc"),
    "length -3": (["Content-Length: -3"], b"abc"),
    "length 0x3": (["Content-Length: 0x3"], b"abc"),
    "length 3_0": (["Content-Length: 3_0"], b"a" * 30),
    "length 3 0": (["Content-Length: 3 0"], b"abc"),
    "length 3.0": (["Content-Length: 3.0"], b"abc"),
    "length 3;": (["Content-Length: 3;"], b"abc"),
    "length superscript": (["Content-Length: \xb3"], b"abc"),
    "length empty": (["Content-Length:"], b"abc"),
    "length of 5000 digits": ([f"Content-Length: {'9' * 5000}"], b"abc"),
    "length folded": (["Content-Length:", " 3"], b"abc"),
    "length after a vertical tab": (["Content-Length: \x0b3"], b"abc"),
    "chunked twice": (["Transfer-Encoding: chunked, chunked"], CHUNKS),
    "chunked in two lines": (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], CHUNKS),
    "gzip, chunked": (["Transfer-Encoding: gzip, chunked"], CHUNKS),
    "gzip and chunked": (["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"], CHUNKS),
    "chunked, gzip": (["Transfer-Encoding: chunked, gzip"], CHUNKS),
    "chunked, identity": (["Transfer-Encoding: chunked, identity"], CHUNKS),
    "identity, chunked": (["Transfer-Encoding: identity, chunked"], CHUNKS),
    "gzip": (["Transfer-Encoding: gzip"], CHUNKS),
    "identity": (["Transfer-Encoding: identity"], CHUNKS),
    "xchunked": (["Transfer-Encoding: xchunked"], CHUNKS),
    "chunked;q=1": (["Transfer-Encoding: chunked;q=1"], CHUNKS),
    "quoted chunked": (['Transfer-Encoding: "chunked"'], CHUNKS),
    "chunked, nothing": (["Transfer-Encoding: chunked,"], CHUNKS),
    "coding empty": (["Transfer-Encoding:"], CHUNKS),
    "chunked after a vertical tab": (["Transfer-Encoding: \x0bchunked"], CHUNKS),
    "chunked folded": (["Transfer-Encoding:", " chunked"], CHUNKS),
    "blank before the colon": (["Content-Length : 3"], b"abc"),
    "tab before the colon": (["Transfer-Encoding\t: chunked"], CHUNKS),
    "blank before the name": ([" Content-Length: 3"], b"abc"),
    "no name": ([": 3"], b"abc"),
    "no colon": (["Content-Length 3"], b"abc"),
    "blank in a name": (["X A: 1"], b""),
    "NUL in a name": (["X\0: 1"], b""),
    "NUL in a value": (["X-A: a\0b"], b""),
    "control character in a value": (["X-A: a\x01b"], b""),
    "DEL in a value": (["X-A: a\x7fb"], b""),
    "bare CR in a value": (["X-A: a\rContent-Length: 3"], b"abc"),
    "bare LF in a value": (["X-A: a\nContent-Length: 3"], b"abc"),
    "bare LF, then CRLF": (["X-A: a\n"], b""),
    "obs-fold": (["X-A: a", " b"], b""),
    "obs-fold with a tab": (["X-A: a", "\tb"], b""),
    "byte over 127 in a name": (["X-\xe9: 1"], b""),
}

LINES = {
    "bare LF throughout": b"POST %s HTTP/1.1\nHost: localhost\nContent-Length: 3\n\nabc",
    "bare LF at the end": b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\nabc",
    "bare CR throughout": b"POST %s HTTP/1.1\rHost: localhost\rContent-Length: 3\r\rabc\r\n\r\n",
    "chunked in HTTP/1.0": b"POST %s HTTP/1.0\r\nHost: localhost\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "HTTP/2.0": b"POST %s HTTP/2.0\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
    "HTTP/1.10": b"GET %s HTTP/1.10\r\nHost: localhost\r\n\r\n",
    "no version": b"GET %s\r\n\r\n",
    "http/1.1": b"GET %s http/1.1\r\nHost: localhost\r\n\r\n",
    "two blanks": b"GET  %s  HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a tab": b"GET\t%s\tHTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a blank first": b" GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a blank last": b"GET %s HTTP/1.1 \r\nHost: localhost\r\n\r\n",
    "a method of odd characters": b"GE(T %s HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03%s\r\n\r\n",
}

CHUNKED = {
    "size not hex": b"g\r\nabc\r\n0\r\n\r\n",
    "size -3": b"-3\r\nabc\r\n0\r\n\r\n",
    "size +3": b"+3\r\nabc\r\n0\r\n\r\n",
    "size 0x3": b"0x3\r\nabc\r\n0\r\n\r\n",
    "size 0_3": b"0_3\r\nabc\r\n0\r\n\r\n",
    "size empty": b"\r\nabc\r\n0\r\n\r\n",
    "blank before the size": b" 3\r\nabc\r\n0\r\n\r\n",
    "blank after the size": b"3 \r\nabc\r\n0\r\n\r\n",
    "size over 64 bits": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "size of 1000 digits": b"f" * 1000 + b"\r\nabc\r\n0\r\n\r\n",
    "size line without an end": b"0" * 20_000,
    "size ends in LF": b"3\nabc\r\n0\r\n\r\n",
    "size ends in CR": b"3\rabc\r\n0\r\n\r\n",
    "NUL in the size": b"3\0\r\nabc\r\n0\r\n\r\n",
    "chunk too long": b"3\r\nabcd\r\n0\r\n\r\n",
    "chunk too short": b"5\r\nabc\r\n0\r\n\r\n",
    "chunk ends in LF": b"3\r\nabc\n0\r\n\r\n",
    "chunk without an end": b"3\r\nabc0\r\n\r\n",
    "extension with an LF": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "extension with a CR": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "extension with a NUL": b"3;a\0b\r\nabc\r\n0\r\n\r\n",
    "last chunk ends in LF": b"3\r\nabc\r\n0\n\n",
    "trailer with a length": b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
    "trailer with an LF": b"3\r\nabc\r\n0\r\nX-A: b\n\r\n",
    "trailer with a fold": b"3\r\nabc\r\n0\r\nX-A: b\r\n c\r\n\r\n",
    "trailer without a colon": b"3\r\nabc\r\n0\r\nGET / HTTP/1.1\r\n\r\n",
}

ONE_READING = {
    "blanks around a length": (["Content-Length: \t 3 \t"], b"abc"),
    "zeros before a length": (["Content-Length: 0003"], b"abc"),
    "lower-case names": (["content-length: 3"], b"abc"),
    "CHUNKED": (["TRANSFER-ENCODING: CHUNKED"], CHUNKS),
    "extension": (["Transfer-Encoding: chunked"], b'3;a;b=c;d="e f"\r\nabc\r\n0;x\r\n\r\n'),
    "zeros before a size": (["Transfer-Encoding: chunked"], b"0003\r\nabc\r\n000\r\n\r\n"),
    "trailers": (["Transfer-Encoding: chunked"], b"3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"),
    "several chunks": (["Transfer-Encoding: chunked"], b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"),
}


def refused(case: Case, request: bytes) -> Answer:
    """Send `request` and another one after it; check that both went nowhere."""
    caller = case.caller()
    caller.send(request + case.head("GET", "?smuggled"))
    answer = caller.answer("POST")
    assert 400 <= answer.status < 500 or answer.status == 501, answer
    assert answer.error["message"]
    assert caller.is_closed()
    assert not [got for got in case.engine.received if got.complete], case.engine.received
    assert b"smuggled" not in case.engine.raw
    return answer


@pytest.mark.parametrize("fault", HEADS)
def test_a_head_with_two_readings_is_refused_and_the_connection_closed(
    case: Case, fault: str
) -> None:
    lines, body = HEADS[fault]
    refused(case, case.head("POST", "", *lines) + body)
    assert case.engine.raw == b""


@pytest.mark.parametrize("fault", LINES)
def test_lines_that_are_not_http_are_refused_and_the_connection_closed(
    case: Case, fault: str
) -> None:
    refused(case, LINES[fault].replace(b"%s", case.path.encode()))
    assert case.engine.raw == b""


@pytest.mark.parametrize("fault", CHUNKED)
def test_chunks_with_two_readings_are_refused_and_the_connection_closed(
    case: Case, fault: str
) -> None:
    refused(case, case.head("POST", "", "Transfer-Encoding: chunked") + CHUNKED[fault])


def test_a_coding_that_is_not_done_is_501(case: Case) -> None:
    answer = refused(case, case.head("POST", "", "Transfer-Encoding: gzip, chunked") + CHUNKS)
    assert answer.status == 501


@pytest.mark.parametrize("tail", [b"3\r\nabc\r\n0\r\n", b"3\r\nabc\r\n0", b"3\r\nabc", b"3"])
def test_chunks_that_do_not_end_are_refused_in_time(case: Case, tail: bytes) -> None:
    caller = case.caller()
    caller.send(case.head("POST", "", "Transfer-Encoding: chunked") + tail)
    assert caller.answer("POST").status == 408
    assert caller.is_closed()
    assert not [got for got in case.engine.received if got.complete]


@pytest.mark.parametrize("kind", ONE_READING)
def test_what_has_one_reading_is_taken_and_the_connection_goes_on(case: Case, kind: str) -> None:
    lines, body = ONE_READING[kind]
    case.engine.script = echo
    caller = case.caller()
    caller.send(case.head("POST", "?1", *lines) + body + case.head("GET", "?2"))
    assert caller.answer("POST").status == 200
    assert caller.answer().status == 200
    first, second = case.engine.received
    assert (first.body, first.target, second.target) == (
        b"abc",
        "/v1/completions?1",
        "/v1/completions?2",
    )
    assert case.engine.faults == []
