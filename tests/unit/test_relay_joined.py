"""A stream that began while its request waited goes on with whatever the engine answers."""

from __future__ import annotations

import json

import h11
import pytest

from shared.errors import ModelUnavailable
from web.relay.answer import AnswerHead, BadAnswer, answer_head
from web.relay.joined import Joined, chunk, comment_chunk, stream_head


def head(status: int, *lines: bytes) -> AnswerHead:
    """Return the head of an engine's answer."""
    return answer_head(b"\r\n".join([b"HTTP/1.1 %d X" % status, *lines]))


CHUNKED = b"Transfer-Encoding: chunked"


def read(data: bytes) -> tuple[h11.Response, bytes]:
    """Return what a strict reader makes of a whole answer."""
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="POST", target="/", headers=[("Host", "x")]))
    http.send(h11.EndOfMessage())
    http.receive_data(data)
    answer = http.next_event()
    assert isinstance(answer, h11.Response)
    body = b""
    while isinstance(event := http.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return answer, body


def begun() -> bytes:
    """Return the beginning of a stream, with one comment line."""
    beginning = stream_head(b"an-id", b"Mon, 23 Nov 2026 20:00:00 GMT", last=False)
    return beginning + comment_chunk("loading 42 %")


def test_an_engines_stream_goes_on_where_comments_came_before() -> None:
    joined = Joined()
    joined.begin(head(200, CHUNKED), 0, b"")
    engines = chunk(b"data: {}\n\n") + b"0\r\n\r\n"
    answer, body = read(begun() + joined.passed(engines) + joined.end())
    assert answer.status_code == 200
    assert dict(answer.headers)[b"x-request-id"] == b"an-id"
    assert dict(answer.headers)[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert body == b": loading 42 %\n\ndata: {}\n\n"


@pytest.mark.parametrize("first", [0, 5, 100])
def test_an_error_of_the_engine_becomes_the_last_event(first: int) -> None:
    said = json.dumps({"error": {"message": "max_tokens is too large"}}, indent=1).encode()
    joined = Joined()
    joined.begin(head(400, b"Content-Length: %d" % len(said)), len(said), said[:first])
    _, body = read(begun() + joined.passed(said[first:]) + joined.end())
    comment, event, done, rest = body.split(b"\n\n")
    assert (comment, done, rest) == (b": loading 42 %", b"data: [DONE]", b"")
    lines = [line.removeprefix(b"data: ") for line in event.split(b"\n")]
    assert json.loads(b"\n".join(lines)) == json.loads(said)


@pytest.mark.parametrize(
    ("status", "lines"),
    [
        (400, [CHUNKED]),
        (200, []),
        (200, [b"Content-Length: 2000000"]),
    ],
)
def test_what_cannot_be_part_of_a_stream_is_refused(status: int, lines: list[bytes]) -> None:
    answer = head(status, *lines)
    with pytest.raises(BadAnswer):
        Joined().begin(answer, answer.length, b"")


def test_a_start_that_fails_ends_the_stream_with_its_cause() -> None:
    error = ModelUnavailable("model 'm': out of memory", retry_after_s=10)
    answer, body = read(begun() + Joined().last(error))
    assert answer.status_code == 200
    event = body.split(b"\n\n")[1].removeprefix(b"data: ")
    assert json.loads(event)["error"] == {
        "message": "model 'm': out of memory",
        "type": "server_error",
        "param": None,
        "code": "model_unavailable",
    }
