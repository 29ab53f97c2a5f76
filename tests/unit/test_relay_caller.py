"""A caller who has left before anybody looked is no caller."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import closing
from types import SimpleNamespace
from typing import cast

import uvloop

from web.relay.caller import CallerConnection
from web.relay.clock import Clock
from web.relay.relay import Relay


def test_who_has_left_before_being_accepted_is_given_to_no_thread() -> None:
    given: list[object] = []
    relay = SimpleNamespace(
        admission=SimpleNamespace(is_local=lambda _peer: False),
        callers=set(),
        clock=Clock(0.25, 0.0, 60.0),
        give_to_thread=lambda *job: given.append(job),
        limits=SimpleNamespace(
            max_headers=100, max_header_bytes=10_000, max_body=10_000, body_timeout_s=1.0
        ),
        tunnels=set(),
    )

    async def come_and_go() -> None:
        made = CallerConnection(cast("Relay", relay), 1.0)
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
            lambda: made, accepted
        )
        for _ in range(20):
            await asyncio.sleep(0)
        assert transport.is_closing()

    with socket.create_server(("127.0.0.1", 0)) as server:
        caller = socket.create_connection(server.getsockname())
        caller.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        caller.close()
        accepted, _ = server.accept()
    accepted.setblocking(False)  # noqa: FBT003 - the standard library's own
    with closing(uvloop.new_event_loop()) as loop:
        loop.run_until_complete(asyncio.wait_for(come_and_go(), 10))
    assert not given
    assert not relay.callers
