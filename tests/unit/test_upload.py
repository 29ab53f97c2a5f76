"""Uploads under a server that only gives a stream; under gunicorn the conformance tests tell."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from shared.errors import RequestTooLarge
from web.http.upload import PlainUpload


@pytest.fixture
def engine() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return our end of a connection to an engine, and the engine's."""
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def test_a_body_comes_whole_and_is_then_complete(engine: Pair) -> None:
    upload = PlainUpload(io.BytesIO(b"x" * 100_000), limit=100_000)
    assert b"".join(upload.pieces(engine[0])) == b"x" * 100_000
    assert upload.complete


def test_nothing_beyond_the_limit_is_given(engine: Pair) -> None:
    upload = PlainUpload(io.BytesIO(b"x" * 100_000), limit=99_999)
    given: list[bytes] = []
    with pytest.raises(RequestTooLarge, match="PROXY_MAX_BODY"):
        given.extend(upload.pieces(engine[0]))
    assert sum(map(len, given)) <= 99_999
    assert not upload.complete


def test_an_engine_that_speaks_ends_the_upload(engine: Pair) -> None:
    engine[1].sendall(b"HTTP/1.1 413 ")
    upload = PlainUpload(io.BytesIO(b"x" * 200_000), limit=200_000)
    assert len(b"".join(upload.pieces(engine[0]))) < 200_000
    assert not upload.complete
