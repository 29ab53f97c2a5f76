"""Which headers pass the proxy: one list for both ways to an engine. Names in lower case."""

from __future__ import annotations

HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
        "transfer-encoding", "upgrade",
        "proxy-connection",  # never a standard, and still sent
    }
)  # fmt: skip
"""For one connection only (RFC 9110, section 7.6.1), besides those that Connection names."""

SECRET = frozenset({"authorization", "cookie", "cookie2", "x-api-key", "api-key"})
"""The caller's; the engine has a key of its own."""

FORWARDING = frozenset(
    {
        "forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port",
        "x-forwarded-proto", "x-forwarded-server", "x-original-forwarded-for", "x-real-ip",
        "x-client-ip", "true-client-ip", "cf-connecting-ip",
    }
)  # fmt: skip
"""Said by proxies before us about callers, which engines need not know, and anybody can write."""

NOT_TO_ENGINE = SECRET | FORWARDING | {"host", "content-length", "expect", "x-request-id"}
"""Dropped from requests, where they are not ours to say anew."""

OURS = {
    "X-Accel-Buffering": "no",  # a proxy in front of us must not collect the stream
    # An answer opened as a page must not run as one of ours.
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
}
"""On every answer of an engine."""

NOT_TO_CALLER = frozenset(
    {
        "date", "server", "x-request-id",  # ours to say
        "set-cookie", "set-cookie2",  # on our own name
        # What a browser would keep, or do, for all that is served under our name.
        "alt-svc", "clear-site-data", "content-security-policy-report-only", "nel", "report-to",
        "reporting-endpoints", "service-worker-allowed", "strict-transport-security",
        *(name.lower() for name in OURS),
    }
)  # fmt: skip
"""Dropped from answers of engines, where they are not ours to say anew."""

NOT_TO_CALLER_PREFIXES = (
    "access-control-",  # whose pages may read answers is not an engine's to say
    "x-accel-",  # orders to a proxy in front of us
)


def goes_to_caller(name: str) -> bool:
    """Return whether an engine's header passes, as far as its name tells."""
    return not (
        name in HOP_BY_HOP or name in NOT_TO_CALLER or name.startswith(NOT_TO_CALLER_PREFIXES)
    )
