"""The model in a form, read exactly, without keeping any of its files. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import chain
from urllib.parse import parse_qsl

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from shared.errors import InvalidRequest
from web.proxy.asked import Asked, checked_model

_MAX_VALUE = 4096  # bytes of a field that we read
_MAX_PARTS = 1000  # as Flask's own default
_MAX_URLENCODED = 1024 * 1024  # bytes
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{1,70}")  # RFC 2046, section 5.1.1
_BOUNDARIES = re.compile(r";\s*boundary[*0-9]*\s*=", re.IGNORECASE)
# As RFC 2231 would encode it, which RFC 7578 forbids: not all readers take it for the name.
_ENCODED_NAME = re.compile(r";\s*name\s*\*", re.IGNORECASE)
_READ = ("model", "stream")


def is_form(content_type: str) -> bool:
    """Return whether a Content-Type is a form's."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("multipart/form-data", "application/x-www-form-urlencoded")


def asked_in_form(pieces: Iterable[bytes], content_type: str) -> Asked:
    """Return what a form asks for.

    Args:
        pieces: the body.
        content_type: its Content-Type, a form's.

    Raises:
        InvalidRequest: it is malformed, or does not say one model.
    """
    kind, options = parse_options_header(content_type)
    try:
        if kind == "multipart/form-data":
            said = _multipart(pieces, _one_boundary(content_type, options))
        else:
            said = _urlencoded(pieces)
    except (ValueError, RequestEntityTooLarge) as error:
        why = str(error) if isinstance(error, ValueError) else "too many parts, or a long one"
        raise InvalidRequest(f"body: not the form that it says: {why}", field="body") from error
    if any(len(values) > 1 for values in said.values()):
        raise InvalidRequest("model: stands twice in the form; say one", field="model")
    model = next(iter(said["model"]), None)
    streams = next(iter(said["stream"]), "").lower() in ("true", "1")
    return Asked(model=checked_model(model), streams=streams, previous="", beginning=b"")


def _one_boundary(content_type: str, options: Mapping[str, str]) -> str:
    boundary = options.get("boundary", "")
    if len(_BOUNDARIES.findall(content_type)) > 1:
        raise ValueError("its Content-Type has several boundaries")
    if not _BOUNDARY.fullmatch(boundary):
        raise ValueError("its Content-Type has no boundary")
    return boundary


def _multipart(pieces: Iterable[bytes], boundary: str) -> dict[str, list[str]]:
    decoder = MultipartDecoder(boundary.encode(), max_parts=_MAX_PARTS)
    said: dict[str, list[str]] = {name: [] for name in _READ}
    name, value = "", b""
    for piece in chain(pieces, (None,)):
        decoder.receive_data(piece)
        while not isinstance(event := decoder.next_event(), (NeedData, Epilogue)):
            if isinstance(event, (Field, File)):
                if _ENCODED_NAME.search(event.headers.get("Content-Disposition", "")):
                    raise ValueError("the name of a field is written as name*=; write name=")
                name, value = event.name, b""
            elif isinstance(event, Data) and name in said:
                value += event.data
                if len(value) > _MAX_VALUE:
                    raise ValueError(f"its field {name} is longer than {_MAX_VALUE} bytes")
                if not event.more_data:
                    # Werkzeug 3.1 leaves the boundary's CR there where a piece ends within that.
                    said[name].append(value.decode().removesuffix("\r"))
    return said


def _urlencoded(pieces: Iterable[bytes]) -> dict[str, list[str]]:
    body = b""
    for piece in pieces:
        body += piece
        if len(body) > _MAX_URLENCODED:
            raise ValueError(f"it is longer than {_MAX_URLENCODED} bytes")
    if body.lstrip().startswith(b"{"):
        raise ValueError("it looks like JSON; say so: Content-Type: application/json")
    fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_PARTS)
    return {wanted: [value for name, value in fields if name == wanted] for wanted in _READ}
