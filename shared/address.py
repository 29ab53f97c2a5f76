"""Addresses as URLs and `Host` headers write them."""

from __future__ import annotations


def authority(host: str, port: int | None) -> str:
    """Return `host:port`, an IPv6 address in brackets (RFC 3986, section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
