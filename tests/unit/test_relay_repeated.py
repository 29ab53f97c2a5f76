"""A head counts as repeated only if reading it again would tell the same, but for the length."""

import re
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from web.relay.answer import BadAnswer, answer_head
from web.relay.repeated import Repeated
from web.relay.request import plain_request

BEFORE = b"POST /proxy/tiny-aaaaaaaa/v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: "
AFTER = b"\r\nAccept: */*"


def counted(digits: bytes) -> bytes:
    """Return a head with that Content-Length, in its middle."""
    return BEFORE + digits + AFTER


@pytest.mark.parametrize(
    ("digits", "length"),
    [
        (b"12", 12),
        (b"0", 0),
        (b"3", 3),
        (b"007", 7),
        (b"999999999999999", 10**15 - 1),
    ],
)
def test_only_the_length_may_differ(digits: bytes, length: int) -> None:
    assert Repeated(counted(b"12")).length_in(counted(digits)) == length


@pytest.mark.parametrize(
    "digits",
    [
        b"",
        b" ",
        b" 5",
        b"5 ",
        b"-5",
        b"+5",
        b"5_0",
        b"0x5",
        b"5,5",
        b"5\r\nX: 5",
        b"5\r\nContent-Length: 6",
        b"5\r\nTransfer-Encoding: chunked",
        b"\xb2",
        b"\xd9\xa1",
        b"0" * 15 + b"5",
    ],
)
def test_a_length_is_up_to_15_digits(digits: bytes) -> None:
    assert Repeated(counted(b"12")).length_in(counted(digits)) is None


@pytest.mark.parametrize(
    "head",
    [
        b"",
        BEFORE,
        AFTER,
        counted(b"12")[:-1],
        counted(b"12") + b"*",
        counted(b"12") + b"\r\nCookie: a",
        counted(b"12").replace(b"POST", b"GET"),
        counted(b"12").replace(b"Accept", b"accept"),
        counted(b"12").replace(b"Content-Length", b"Content-length"),
    ],
)
def test_another_head_is_another(head: bytes) -> None:
    assert Repeated(counted(b"12")).length_in(head) is None


def test_the_length_may_come_last() -> None:
    repeated = Repeated(BEFORE + b"12")
    assert repeated.length_in(BEFORE + b"345") == 345
    assert repeated.length_in(BEFORE) is None
    assert repeated.length_in(BEFORE + b"345" + AFTER) is None


def test_beginning_and_end_do_not_overlap() -> None:
    head = b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1"
    assert Repeated(head).length_in(b"GET / HTTP/1.1\r\nContent-Length: 1") is None
    digits = b"GET / HTTP/1.1\r\nX: 1\r\nContent-Length:1\r\nX: 1\r\nContent-Length:"
    assert Repeated(digits).length_in(b"GET / HTTP/1.1\r\nX: 1\r\nContent-Length:") is None


def test_a_head_without_a_length_is_repeated_to_the_byte() -> None:
    head = b"GET /proxy/tiny-aaaaaaaa/v1/models HTTP/1.1\r\nHost: x"
    assert Repeated(head).length_in(head) == 0
    assert Repeated(head).length_in(head + b"y") is None
    assert Repeated(head).length_in(head + b"\r\nContent-Length: 5") is None


def test_a_length_in_a_value_is_no_length() -> None:
    head = b"GET /proxy/tiny-aaaaaaaa/v1/models HTTP/1.1\r\nHost: x\r\nX: Content-Length: 5"
    assert Repeated(head).length_in(head) == 0
    assert Repeated(head).length_in(head[:-1] + b"6") is None


_DIGITS = st.sampled_from([b"0", b"5", b"12", b"007", b"9" * 15, b"9" * 16, b"\xb2", b"5 ", b""])
_LENGTHS = st.sampled_from([b"Content-Length: 12", b"content-length:12", b"CONTENT-LENGTH: 12\t"])
_REQUEST_LINES = _LENGTHS | st.sampled_from(
    [b"Accept: */*", b"Connection: close", b"Authorization: Bearer a12", b"X-Content-Length: 12"]
)
_ANSWER_LINES = _LENGTHS | st.sampled_from(
    [b"x-a: 12", b"connection: close", b"transfer-encoding: chunked", b"x-content-length: 12"]
)
_NASTY = st.sampled_from(
    [b"\r\n", b"\r", b"\n", b" ", b"\t", b":", b"0", b"1", b"12", b"5", b"\xb2", b",", b"-", b"_"]
)


@st.composite
def _pairs(draw: st.DrawFn, start: bytes, lines: st.SearchStrategy[bytes]) -> tuple[bytes, bytes]:
    """A head and one much like it: other digits somewhere, or some other bytes replaced."""
    head = b"\r\n".join([start, *draw(st.lists(lines, max_size=4))])
    digits = draw(_DIGITS)
    numbers = head.split(b"12")
    which = draw(st.integers(1, len(numbers) - 1))
    anywhere = b"12".join(numbers[:which]) + digits + b"12".join(numbers[which:])
    in_length = re.sub(rb"(?i)(\ncontent-length:\s*)12", lambda found: found[1] + digits, head)
    other = draw(st.sampled_from([anywhere, in_length, in_length]))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(other)))
        upto = min(len(other), at + draw(st.integers(0, 2)))
        other = other[:at] + draw(_NASTY) + other[upto:]
    return head, other


@settings(max_examples=500)
@given(_pairs(b"POST /proxy/tiny-a/v1/completions?12 HTTP/1.1\r\nHost: x", _REQUEST_LINES))
@example((counted(b"5"), counted(b"6")))
def test_a_repeated_request_would_be_read_alike(pair: tuple[bytes, bytes]) -> None:
    head, other = pair
    first = plain_request(head)
    if first is None:
        return
    assert Repeated(head).length_in(head) == (first.length or 0)
    length = Repeated(head).length_in(other)
    if length is not None:
        same = first if first.length is None else replace(first, length=length)
        assert plain_request(other) == same


@settings(max_examples=500)
@given(_pairs(b"HTTP/1.1 200 12", _ANSWER_LINES))
@example((b"HTTP/1.1 200 OK\r\ncontent-length: 5", b"HTTP/1.1 200 OK\r\ncontent-length: 71"))
def test_a_repeated_answer_would_be_read_alike(pair: tuple[bytes, bytes]) -> None:
    head, other = pair
    try:
        first = answer_head(head)
    except BadAnswer:
        return
    assert Repeated(head).length_in(head) == first.length
    length = Repeated(head).length_in(other)
    if length is not None:
        assert answer_head(other) == replace(first, length=length)
