"""What the relay itself refuses is told in the shape of all errors, and ends where it says."""

import json

import h11
import pytest

from shared.errors import EngineUnreachable, FleetError, InstanceNotReady, RequestTimeout
from web.relay.refusal import refusal


def read(data: bytes) -> tuple[h11.Response, bytes]:
    """Return what a client reads, to the last byte."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert client.trailing_data[0] == b""
    return response, body


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (EngineUnreachable("no connection"), 502, "engine_unreachable"),
        (RequestTimeout("its head did not come"), 408, "request_timeout"),
        (InstanceNotReady("it loads", retry_after_s=None), 503, "instance_not_ready"),
    ],
)
def test_an_error_is_told_like_all_others(error: FleetError, status: int, code: str) -> None:
    response, body = read(refusal(error, b"id-1"))
    headers = dict(response.headers)
    assert response.status_code == status
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"x-request-id"] == b"id-1"
    assert headers[b"date"].endswith(b" GMT")
    assert headers[b"connection"] == b"close"
    assert b"retry-after" not in headers
    told = json.loads(body)["error"]
    assert (told["message"], told["code"]) == (str(error), code)


def test_it_says_when_to_come_again() -> None:
    response, _ = read(refusal(InstanceNotReady("it loads", retry_after_s=5), b"id-1"))
    assert dict(response.headers)[b"retry-after"] == b"5"


def test_words_of_an_engine_cannot_leave_the_body() -> None:
    error = EngineUnreachable('answered "\r\nSet-Cookie: a\r\n\r\n\x00é" and closed')
    response, body = read(refusal(error, b"id-1"))
    assert b"set-cookie" not in dict(response.headers)
    assert json.loads(body)["error"]["message"] == str(error)
