"""WebSockets: the relay passes them through; the view says that it does not."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.builders import a_key
from tests.demo.waiting import until
from tests.integration.conformance import ENGINE_KEY, Case, Way, normal, running_way, ways
from tests.integration.raw_engine import Talk, answering

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # of that key, in RFC 6455 too
_CLOSE = 8
on_the_relay = pytest.mark.parametrize("way", sorted(ways().keys() - {"view"}), indirect=True)
HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {_KEY}",
)


def websocket_echo(talk: Talk) -> None:
    """Accept a handshake and send each frame's payload back, unmasked, until a close frame."""
    talk.upgrade()
    key = (talk.request.header("sec-websocket-key") or "").encode()
    accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()  # noqa: S324
    talk.send(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
    )
    while True:
        first, second = talk.take(2)
        assert second & 0x80, "a client must mask its frames"
        size = second & 0x7F
        if size == 126:
            size = int.from_bytes(talk.take(2))
        elif size == 127:
            size = int.from_bytes(talk.take(8))
        mask = talk.take(4)
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(talk.take(size)))
        talk.request.pieces.append((0.0, payload))
        talk.send(bytes([first]) + _size(len(payload), masked=False) + payload)
        if first & 0x0F == _CLOSE:
            talk.close()


def frame(opcode: int, payload: bytes) -> bytes:
    """Return one masked frame."""
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes([0x80 | opcode]) + _size(len(payload), masked=True) + mask + masked


def _size(length: int, *, masked: bool) -> bytes:
    bit = 0x80 if masked else 0
    if length < 126:
        return bytes([bit | length])
    if length < 65_536:
        return bytes([bit | 126]) + length.to_bytes(2)
    return bytes([bit | 127]) + length.to_bytes(8)


@pytest.fixture
def socket_case(way: Way) -> Iterator[Case]:
    """Return a case whose engine is an echo."""
    with closing(Case(way)) as case:
        if (
            way.name == "relay"
        ):  # which takes what its table knows; the view's answers name gunicorn
            path = f"/proxy/{case.instance_id}/v1/models"
            assert until(lambda: case.ask("GET", path).header("server") is None, 5)
        case.engine.script = websocket_echo
        yield case


def received(case: Case, count: int) -> bytes:
    """Return that many bytes of an upgraded connection."""
    caller = case.callers[-1]
    data = caller.unread()
    while len(data) < count:
        piece = caller.socket.recv(65_536)
        assert piece, data
        data += piece
    return data


def open_socket(case: Case, *lines: str) -> None:
    """Do the handshake."""
    caller = case.caller()
    path = f"/proxy/{case.instance_id}/v1/realtime?model=tiny"
    caller.send(case.head("GET", path, *HANDSHAKE, *lines))
    head = caller.read_to(b"\r\n\r\n").decode()
    assert head.startswith("HTTP/1.1 101 ")
    headers = normal([tuple(line.split(": ", 1)) for line in head.split("\r\n")[1:-2]])  # type: ignore[misc]
    assert headers["sec-websocket-accept"] == _ACCEPT
    assert headers["upgrade"].lower() == "websocket"
    assert headers["connection"].lower() == "upgrade"


@pytest.mark.parametrize("way", ["view"], indirect=True)
def test_the_view_says_that_it_passes_no_websockets(case: Case) -> None:
    answer = case.ask("GET", f"/proxy/{case.instance_id}/v1/realtime", *HANDSHAKE)
    assert (answer.status, answer.error["code"]) == (501, "not_supported")
    assert "WebSocket" in answer.error["message"]
    assert case.engine.raw == b""


@on_the_relay
@pytest.mark.parametrize("size", [0, 5, 125, 126, 65_535, 65_536, 300_000])
def test_frames_pass_both_ways(socket_case: Case, size: int) -> None:
    open_socket(socket_case)
    payload = os.urandom(size)
    socket_case.callers[-1].send(frame(2, payload))
    echoed = b"\x82" + _size(size, masked=False) + payload
    assert received(socket_case, len(echoed)) == echoed


@on_the_relay
def test_the_handshake_is_checked_like_any_request(socket_case: Case) -> None:
    open_socket(socket_case, "Authorization: Bearer s3cret", "Cookie: a=s3cret", "X-Kept: 1")
    got = normal(socket_case.last().headers)
    assert got["authorization"] == f"Bearer {ENGINE_KEY}"
    assert got["host"] == f"127.0.0.1:{socket_case.engine.port}"
    assert got["x-kept"] == "1"
    assert b"s3cret" not in socket_case.engine.raw
    path = f"/proxy/{socket_case.instance_id}/v1/../v1/realtime"
    assert socket_case.ask("GET", path, *HANDSHAKE).status == 400


@on_the_relay
def test_a_close_by_the_engine_reaches_the_caller(socket_case: Case) -> None:
    open_socket(socket_case)
    socket_case.callers[-1].send(frame(_CLOSE, b"\x03\xe8"))
    assert received(socket_case, 4) == b"\x88\x02\x03\xe8"
    assert socket_case.callers[-1].is_closed()


@on_the_relay
def test_a_caller_who_leaves_ends_the_engines_connection(socket_case: Case) -> None:
    open_socket(socket_case)
    socket_case.callers[-1].close()
    assert until(lambda: socket_case.last().gone_at is not None, 2)


@on_the_relay
@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno", 503),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", 200),
    ],
)
def test_a_refused_handshake_is_an_ordinary_answer(
    socket_case: Case, refusal: bytes, status: int
) -> None:
    socket_case.engine.script = answering(refusal)
    path = f"/proxy/{socket_case.instance_id}/v1/realtime"
    assert socket_case.ask("GET", path, *HANDSHAKE).status == status


@on_the_relay
def test_a_refused_handshake_opens_no_tunnel(socket_case: Case) -> None:
    socket_case.engine.script = answering(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    caller = socket_case.caller()
    path = f"/proxy/{socket_case.instance_id}/v1/realtime"
    caller.send(socket_case.head("GET", path, *HANDSHAKE))
    assert caller.answer().status == 403
    caller.send(socket_case.head("GET", "/healthz", "Connection: close"))
    assert b'"ok"' in caller.until_closed() or len(socket_case.engine.received) == 1
    assert b"/healthz" not in socket_case.engine.raw


def test_a_socket_ends_with_its_key(tmp_path: Path) -> None:
    key, token = a_key()
    relay = running_way("relay", tmp_path, PROXY_IDLE_TIMEOUT="60")
    with relay as way, closing(Case(way)) as case:
        case.engine.script = websocket_echo
        assert way.store.add_key(key)
        assert until(lambda: case.ask().status == 401, 5)
        open_socket(case, f"Authorization: Bearer {token.decode()}")
        case.callers[-1].send(frame(2, b"x"))
        assert received(case, 3) == b"\x82\x01x"
        assert way.store.revoke_key(key.key_id)
        assert case.callers[-1].is_closed()
        assert until(lambda: case.last().gone_at is not None, 2)
