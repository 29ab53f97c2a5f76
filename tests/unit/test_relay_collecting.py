"""A thread gets a request when it need not wait for it, or when its caller really sends."""

from collections.abc import Iterator
from contextlib import suppress

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from hypothesis import example, given, settings
from hypothesis import strategies as st

from web.relay.collecting import ENOUGH, Collecting

START = b"PUT /anywhere HTTP/1.1\r\nHost: x\r\n"


def collected(data: bytes, cuts: list[int]) -> tuple[int, bool]:
    """Return how many bytes came before a thread had the request, and whether it is whole.

    The head comes at once, the rest in pieces; -1 if they were not enough.
    """
    head_end = data.find(b"\r\n\r\n")
    least = head_end + 4
    ends = sorted({least, *(least + cut % (len(data) - least + 1) for cut in cuts), len(data)})
    collecting = Collecting(data[:least], head_end)
    for end in ends:
        if collecting.is_enough(data[:end]):
            return end, collecting.is_whole
    return -1, collecting.is_whole


class WouldWait(Exception):
    """The parser wants more than there is."""


def by_gunicorn(data: bytes) -> int:
    """Return how many bytes gunicorn takes for the request and its body.

    Raises:
        WouldWait: it wants more.
        ParseException: it refuses the request.
    """

    def pieces() -> Iterator[bytes]:
        yield data
        raise WouldWait

    unreader = IterUnreader(pieces())
    request = Request(Config(), unreader, ("127.0.0.1", 1))
    while request.body.read(1000):
        pass
    return len(data) - len(unreader.take_buffered())


@pytest.mark.parametrize(
    "headers",
    [
        b"",
        b"Content-Length: 0\r\n",
        b"X-Content-Length: 5\r\n",
        b"X: content-length: 5\r\n",
    ],
)
def test_a_request_without_a_body_is_whole_at_once(headers: bytes) -> None:
    assert collected(START + headers + b"\r\n", []) == (len(START + headers) + 2, True)
    assert collected(START + headers + b"\r\nGET / HTTP", []) == (len(START + headers) + 2, True)


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 5\r\n\r\nabcde",
        b"content-length:5\t\r\n\r\nabcde",
        b"CONTENT-LENGTH:\t05\r\nAccept: */*\r\n\r\nabcde",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        b"transfer-encoding:Chunked \r\n\r\n0\r\n\r\n",
    ],
)
def test_a_small_request_is_waited_for(rest: bytes) -> None:
    data = START + rest
    assert collected(data, list(range(len(data)))) == (len(data), True)
    for size in range(data.index(b"\r\n\r\n") + 4, len(data)):
        assert collected(data[:size], []) == (-1, False)
    assert by_gunicorn(data) == len(data)


@pytest.mark.parametrize(
    "headers",
    [b"Content-Length: 10000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n989680\r\n"],
)
def test_a_large_request_goes_once_its_caller_really_sends(headers: bytes) -> None:
    body_at = len(START) + headers.index(b"\r\n\r\n") + 4
    data = (START + headers).ljust(body_at + ENOUGH, b"a")
    assert collected(data, [1, 1000]) == (len(data), False)
    assert collected(data[:-1], [1, 1000]) == (-1, False)


def test_a_request_as_large_as_enough_is_whole() -> None:
    data = START + b"Content-Length: %d\r\n\r\n" % ENOUGH + b"a" * ENOUGH
    assert collected(data, []) == (len(data), True)


@pytest.mark.parametrize(
    "headers",
    [
        b"Expect: 100-continue\r\nContent-Length: 5\r\n",
        b"expect:\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: 0000000000000005\r\n",
        b"Content-Length:\r\n",
        b"Content-Length: \xb2\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: identity, chunked\r\n",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    ],
)
def test_one_that_may_be_waited_for_otherwise_counts_as_an_upload(headers: bytes) -> None:
    data = START + headers + b"\r\n"
    assert collected(data, []) == (len(data), False)


def test_a_head_without_an_end_may_be_waited_for() -> None:
    collecting = Collecting(b"GET / HTTP/1.1\nHost: x", -1)
    assert collecting.is_enough(b"GET / HTTP/1.1\nHost: x")
    assert not collecting.is_whole


@pytest.mark.parametrize("chunk", [b"x\r\n", b"5 \r\n", b"5\r\nabcdef", b"0\r\nX: y\r\n"])
def test_bad_chunks_are_the_parsers_to_refuse(chunk: bytes) -> None:
    data = START + b"Transfer-Encoding: chunked\r\n\r\n" + chunk
    assert collected(data, []) == (len(data), False)


_LINES = st.sampled_from(
    [b"Accept: */*", b"Content-Length: 0", b"Content-Length: 5", b"content-length:12\t",
     b"Content-Length: 0000000000000005", b"Transfer-Encoding: chunked",
     b"transfer-encoding:identity , chunked", b"Transfer-Encoding: gzip,Chunked", b"X-A: \xb2",
     b"Connection: close"]
)  # fmt: skip
_BODIES = st.sampled_from(
    [b"", b"abcde", b"5\r\nabcde\r\n0\r\n\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n",
     b"5;a\r\nabcde\r\n0;b=c\r\n\r\n", b"5 ;a\r\nabcde\r\n", b"GET / HTTP/1.1\r\n\r\n"]
)  # fmt: skip
_REQUESTS = st.builds(
    lambda lines, bodies: b"".join([START, *(line + b"\r\n" for line in lines), b"\r\n", *bodies]),
    st.lists(_LINES, max_size=3),
    st.lists(_BODIES, max_size=3),
)
_CUTS = st.lists(st.integers(0, 10_000), max_size=6)


@settings(max_examples=300)
@given(_REQUESTS, _CUTS)
@example(START + b"Content-Length: 5\r\n\r\nabcdeGET", [4, 5, 6])
def test_a_thread_never_waits_for_a_whole_request(data: bytes, cuts: list[int]) -> None:
    upto, is_whole = collected(data, cuts)
    if not is_whole:
        return
    with suppress(ParseException):  # refused, and nobody waited
        by_gunicorn(data[:upto])


@settings(max_examples=300)
@given(_REQUESTS, _CUTS)
def test_a_request_that_is_here_is_not_waited_for(data: bytes, cuts: list[int]) -> None:
    try:
        size = by_gunicorn(data)
    except (WouldWait, ParseException):
        return
    assert collected(data[:size], cuts)[0] >= 0
