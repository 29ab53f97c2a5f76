"""A chunked body ends at one byte, for the relay as for everybody else, however it comes in."""

from itertools import pairwise

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from web.relay.chunks import BadChunks, Chunks

LAST = b"0\r\n\r\n"
_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """Return one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def end_of(*pieces: bytes) -> int:
    """Return where the body ends that comes in these pieces, or -1 if it goes on."""
    chunks, seen = Chunks(), 0
    for piece in pieces:
        end = chunks.end_in(piece)
        if end >= 0:
            return seen + end
        seen += len(piece)
    return -1


def verdict(*pieces: bytes) -> int | None:
    """Return where the body ends, -1 if it goes on, or None if it is refused."""
    try:
        return end_of(*pieces)
    except BadChunks:
        return None


def in_bytes(data: bytes) -> list[bytes]:
    """Return the bytes of `data` one by one."""
    return [data[at : at + 1] for at in range(len(data))]


def by_h11(data: bytes) -> int | None:
    """Return what h11 says as a client: the end, -1 or None."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(_HEAD + data)
    try:
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                return -1
    except h11.RemoteProtocolError:
        return None
    return len(data) - len(client.trailing_data[0])


@pytest.mark.parametrize(
    "body",
    [
        LAST,
        b"000\r\n\r\n",
        b"0;last\r\n\r\n",
        chunk(b"a") + LAST,
        chunk(b"\r\n0\r\n\r\n") + LAST,
        b"00000000000000a\r\n0123456789\r\n" + LAST,
        b"A\r\n0123456789\r\na\r\n0123456789\r\n" + LAST,
        b'3;name=value;other="a; b"\r\nabc\r\n' + LAST,
        b"3;\tname = \xff\r\nabc\r\n" + LAST,
    ],
)
def test_a_body_ends_with_its_last_chunk(body: bytes) -> None:
    assert end_of(body) == len(body)
    assert end_of(body + b"HTTP/1.1 200 OK") == len(body)
    assert end_of(*in_bytes(body + b"HTTP")) == len(body)
    assert by_h11(body) == len(body)


@pytest.mark.parametrize("body", [chunk(b"abc") + LAST, b"1f;a=b\r\n" + b"c" * 31 + b"\r\n" + LAST])
def test_a_body_that_is_cut_goes_on(body: bytes) -> None:
    for size in range(len(body)):
        assert end_of(body[:size]) == -1
        assert end_of(body[:size], b"", body[size:]) == len(body)


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n",
        b" 3\r\nabc\r\n",
        b"3 \r\nabc\r\n",
        b"3 ;a\r\nabc\r\n",  # its sender must not (RFC 9112, section 7.1.1), nor may we
        b"+3\r\nabc\r\n",
        b"-3\r\nabc\r\n",
        b"0x3\r\nabc\r\n",
        b"3_0\r\nabc\r\n",
        b"3h\r\nabc\r\n",
        b"\xb3\r\nabc\r\n",
        b";a\r\nabc\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\rabc\r\n",
        b"3;a\nb\r\nabc\r\n",
        b"3;a\rb\r\nabc\r\n",
        b"3;a\x00\r\nabc\r\n",
        b"3;a\x7f\r\nabc\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabc0\r\n\r\n",
        b"3\r\nabc\rx",
        b"3\r\nab\r\n\r\n",
        b"0\r\nX-Checksum: 1\r\n\r\n",
        b"0\r\n\n",
        b"0\r\nX",
        b"g",
        b"3;a\n",
        b"0" * 16,
        b"0\r\n0\r\n\r\n",
        b"0000000000000000\r\n\r\n",
        b"1000000000000000\r\nabc",
        b"ffffffffffffffffffff\r\nabc",
    ],
)
def test_what_others_may_read_otherwise_is_refused(body: bytes) -> None:
    assert verdict(body) is None
    assert verdict(*in_bytes(body)) is None
    assert verdict(chunk(b"before") + body) is None


def test_a_chunk_may_be_large() -> None:
    chunks = Chunks()
    assert chunks.end_in(b"fffffffffffffff\r\n" + b"a" * 100_000) == -1


@pytest.mark.parametrize(("size", "is_taken"), [(4096, True), (4097, False)])
def test_an_extension_is_up_to_4096_bytes_long(size: int, is_taken: bool) -> None:
    body = b"3;" + b"a" * size + b"\r\nabc\r\n" + LAST
    expected = len(body) if is_taken else None
    assert verdict(body) == expected
    assert verdict(body[:-20], body[-20:]) == expected
    assert verdict(*in_bytes(body)) == expected
    last = b"0;" + b"a" * size + b"\r\n\r\n"
    assert verdict(last) == verdict(*in_bytes(last)) == (len(last) if is_taken else None)


def test_a_size_line_without_an_end_is_refused() -> None:
    assert verdict(b"1;", *[b"a" * 1000] * 5) is None


_EXTENSIONS = st.sampled_from([b"", b"", b";a", b";a=b", b';a="b;c"', b"; a = b \t"])
_CHUNKS = st.builds(
    lambda data, zeros, extension: b"0" * zeros + b"%x%b\r\n%b\r\n" % (len(data), extension, data),
    st.binary(min_size=1, max_size=40) | st.sampled_from([b"\r\n", b"\r", b"0\r\n\r\n"]),
    st.integers(0, 2),
    _EXTENSIONS,
)
_BODIES = st.builds(
    lambda chunks, extension: b"".join(chunks) + b"0%b\r\n\r\n" % extension,
    st.lists(_CHUNKS, max_size=5),
    _EXTENSIONS,
)
_NASTY = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"0", b"5", b"a", b"f" * 16, b" ", b"\t", b";", b"\x00",
     b"x", b"+", b"-", b"0x", b"\xff", b"0\r\n\r\n", b"A: b\r\n"]
)  # fmt: skip


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """A chunked body, some bytes of it replaced."""
    body = draw(_BODIES)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(body)))
        upto = min(len(body), at + draw(st.integers(0, 2)))
        body = body[:at] + draw(_NASTY) + body[upto:]
    return body


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return `data` cut in front of these offsets."""
    at = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    return [data[start:end] for start, end in pairwise(at)]


_CUTS = st.lists(st.integers(0, 10_000), max_size=6)


@settings(max_examples=150)
@given(_BODIES, st.binary(max_size=10), _CUTS)
def test_a_body_ends_there_however_it_comes(body: bytes, rest: bytes, cuts: list[int]) -> None:
    assert by_h11(body) == len(body)
    assert end_of(*pieces_of(body + rest, cuts)) == len(body)


@settings(max_examples=400)
@given(_mutated() | st.binary(max_size=30), _CUTS)
@example(b"0\r\n\n", [])
def test_a_body_ends_where_others_say_or_is_refused(body: bytes, cuts: list[int]) -> None:
    end = verdict(body)
    assert verdict(*pieces_of(body, cuts)) == end
    assert verdict(*in_bytes(body)) == end
    if end is not None and end >= 0:
        assert by_h11(body) == end
    elif end is not None:
        assert by_h11(body) == -1


@given(_BODIES, st.data())
def test_the_beginning_of_a_body_is_never_refused(body: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(body) - 1))
    assert end_of(body[:cut]) == -1
    assert end_of(body[:cut], body[cut:]) == len(body)
