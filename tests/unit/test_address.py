"""Addresses as URLs write them."""

from __future__ import annotations

import pytest

from shared.address import authority


@pytest.mark.parametrize(
    ("host", "port", "written"),
    [
        ("127.0.0.1", 80, "127.0.0.1:80"),
        ("node.example", 9000, "node.example:9000"),
        ("::1", 9000, "[::1]:9000"),
        ("fe80::1%eth0", 1, "[fe80::1%eth0]:1"),
    ],
)
def test_an_ipv6_address_gets_brackets(host: str, port: int, written: str) -> None:
    assert authority(host, port) == written
