"""A request's head in the one strict form that the relay takes. Pure.

Anything that could be read in two ways, or needs more than bytes moved, is not plain: the caller's
connection then goes to gunicorn's parser, which refuses or understands it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from shared.errors import InvalidRequest
from web.http.headers import FORWARDING, HOP_BY_HOP, SECRET
from web.http.request_id import fit
from web.proxy.asked import is_json, model_in_query
from web.proxy.form import is_form
from web.proxy.makers import RESPONSES

# Segments begin with a letter, digit, dash or underscore: no `//`, no `.`, no `..`, nothing to
# decode. `/v1` and `/v2` are what vLLM guards with its key, so that a wrong engine says 401.
_PLAIN = re.compile(
    rb"(GET|POST) (?:/proxy/([a-z0-9-]{1,63}))?"
    rb"(/v[12](?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+)(\?[!\"$-~]*)? HTTP/1\.1"
    rb"((?:\r\n[A-Za-z0-9-]+:[\t -~\x80-\xff]*)+)"
)
_LENGTH = re.compile(rb"[0-9]{1,15}")
# gunicorn's limits, so that both ways refuse the same; bytes, without the CRLF
_MAX_REQUEST_LINE = 4094
_MAX_HEADER_LINE = 8188

_FORWARDING = frozenset(name.encode() for name in FORWARDING)
_DROPPED = _FORWARDING | {name.encode() for name in SECRET}
_FROM_ELSEWHERE = _FORWARDING | {b"origin", b"sec-fetch-site"}
# Framing, negotiation and hop-by-hop headers, which need a full parser.
_NOT_PLAIN = frozenset(name.encode() for name in HOP_BY_HOP - {"connection", "upgrade"}) | {
    b"expect",
    b"http2-settings",
}
_ONCE = frozenset(
    {
        b"authorization", b"connection", b"content-length", b"content-type", b"host", b"upgrade",
        b"x-api-key", b"x-request-id",
    }
)  # fmt: skip
# Ours to answer, or to be asked of whoever made a response: the other way.
_NOT_OF_A_MODEL = re.compile(rb"/v1/(?:models|responses/.*)(?:/.*)?")
_SESSION = b"x-session-id"
_RESPONSES = RESPONSES.encode()
_KEY_IN_PROTOCOL = b"openai-insecure-api-key."
_WEBSOCKET = frozenset({b"upgrade, keep-alive", b"keep-alive, upgrade", b"upgrade"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainRequest:
    """What a plain head says. `headers` are those for the engine, each line led by CRLF."""

    method: bytes
    instance_id: str  # "": one for a model, which the body says, or `model`
    path: str
    target: bytes  # path and query as the engine gets them
    headers: bytes
    length: int | None  # of the body, in bytes; None: no Content-Length
    keep_alive: bool
    websocket: bool
    host: bytes
    token: bytes | None  # the API key, if one was sent
    request_id: bytes | None  # the caller's own, if it can be used
    from_elsewhere: bool  # it has a header that a page or a proxy in front would have put there
    model: str = ""  # that the query says
    in_form: bool = False  # its body is a form, which says the model
    session: bytes = b""  # X-Session-ID of one for a model
    makes_response: bool = False  # its answer begins with the id of a response


def plain_request(head: bytes, max_headers: int = 100) -> PlainRequest | None:
    """Return what `head` says, or None if it is not plain.

    Args:
        head: everything before the empty line, without the last CRLF.
        max_headers: with more it is not for the relay to refuse.
    """
    found = _PLAIN.fullmatch(head)
    if found is None or found.start(5) > _MAX_REQUEST_LINE:
        return None
    lines = found[5]
    seen: dict[bytes, bytes] = {}  # of the headers that may stand once only
    kept: list[bytes] = []
    from_elsewhere = False
    headers = lines[2:].split(b"\r\n")
    if len(headers) > max_headers or (
        len(lines) > _MAX_HEADER_LINE and max(map(len, headers)) > _MAX_HEADER_LINE
    ):
        return None
    for line in headers:
        colon = line.index(b":")
        name = line[:colon].lower()
        from_elsewhere = from_elsewhere or name in _FROM_ELSEWHERE
        if name in _ONCE:
            if name in seen:
                return None
            seen[name] = line[colon + 1 :].strip(b" \t")
        elif name in _NOT_PLAIN:
            return None
        elif name == b"sec-websocket-protocol":
            kept += _without_keys(line)
        elif name not in _DROPPED:
            kept.append(line)
    return _request(found, kept, seen, from_elsewhere=from_elsewhere)


def _request(
    found: re.Match[bytes], kept: list[bytes], seen: dict[bytes, bytes], *, from_elsewhere: bool
) -> PlainRequest | None:
    method, instance_id, path, query, _ = found.groups()
    length = seen.get(b"content-length")
    if length is not None and not _LENGTH.fullmatch(length):
        return None
    connection = seen.get(b"connection", b"").lower()
    websocket = b"upgrade" in seen
    if websocket:
        is_handshake = method == b"GET" and not length and connection in _WEBSOCKET
        if not is_handshake or seen[b"upgrade"].lower() != b"websocket":
            return None
    elif connection not in (b"", b"keep-alive", b"close"):
        return None
    given = [key for key in (_bearer(seen.get(b"authorization")), seen.get(b"x-api-key")) if key]
    if len(given) > 1 or not seen.get(b"host"):
        return None
    if content_type := seen.get(b"content-type"):
        kept.append(b"Content-Type: " + content_type)
    model = "" if instance_id else _model_of(found, seen, websocket=websocket)
    if model is None:
        return None
    return PlainRequest(
        method=method,
        instance_id=instance_id.decode() if instance_id else "",
        path=path.decode(),
        target=path + query if query else path,
        headers=b"".join(b"\r\n" + line for line in kept),
        length=None if length is None else int(length),
        keep_alive=connection != b"close",
        websocket=websocket,
        host=seen[b"host"],
        token=given[0] if given else None,
        request_id=fit(seen.get(b"x-request-id")),
        from_elsewhere=from_elsewhere,
        model=model,
        in_form=not instance_id and is_form(_content_type(seen)),
        session=b"" if instance_id else _session(kept),
        makes_response=path == _RESPONSES and method == b"POST",
    )


def _model_of(found: re.Match[bytes], seen: dict[bytes, bytes], *, websocket: bool) -> str | None:
    """Return the model that a request says before its body, "" if that does; None: not plain."""
    method, _, path, query, _ = found.groups()
    try:
        in_query = model_in_query(query[1:].decode()) if query else None
    except InvalidRequest:
        return None
    if websocket:
        return in_query
    is_body = (
        method == b"POST"
        and not _NOT_OF_A_MODEL.fullmatch(path)
        and (is_json(kind := _content_type(seen)) or is_form(kind))
    )
    return "" if is_body and in_query is None and b"content-length" in seen else None


def _content_type(seen: dict[bytes, bytes]) -> str:
    return seen.get(b"content-type", b"").decode("latin-1")


def _session(kept: list[bytes]) -> bytes:
    """Return the one X-Session-ID, if there is one."""
    found = [
        line.partition(b":")[2].strip(b" \t")
        for line in kept
        if line.partition(b":")[0].lower() == _SESSION
    ]
    return b",".join(found)  # as gunicorn joins them


def _without_keys(line: bytes) -> list[bytes]:
    """Return a header of subprotocols without the key that OpenAI's client puts there."""
    name, _, value = line.partition(b":")
    offered = [offer.strip(b" \t") for offer in value.split(b",")]
    kept = [offer for offer in offered if not offer.lower().startswith(_KEY_IN_PROTOCOL)]
    return [b"%b: %b" % (name, b", ".join(kept))] if kept else []


def _bearer(authorization: bytes | None) -> bytes | None:
    scheme, _, token = (authorization or b"").partition(b" ")
    return token.strip(b" ") if scheme.lower() == b"bearer" else None
