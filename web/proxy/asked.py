"""What a request says about where it should go: its model, and what keeps requests together. Pure.

Read exactly: of what could be read in two ways (a `model` that stands twice, a body that is not one
JSON object in UTF-8) nothing is taken, for the engine might read it in the other way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from shared.domain.choice import Routing, point_of
from shared.errors import InvalidRequest

_DEEPEST = 8  # of a prompt's parts within parts; below that nobody writes text
PREFIX_BYTES = 256
"""Of a prompt's text, by which ROUTING=prefix knows it again: a system prompt's beginning."""

_JSON = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for."""

    model: str
    streams: bool  # wants server-sent events
    previous: str  # id of the response that it goes on from; "" for none
    beginning: bytes  # of the prompt, at most PREFIX_BYTES


def is_json(content_type: str) -> bool:
    """Return whether a Content-Type is JSON's."""
    return _JSON.fullmatch(content_type.strip()) is not None


def asked_in_json(body: bytes, *, with_beginning: bool = False) -> Asked:
    """Return what a JSON body asks for.

    Args:
        body: all of it.
        with_beginning: read the beginning of the prompt, too.

    Raises:
        InvalidRequest: it is no JSON object in UTF-8, or does not say one model.
    """
    try:
        found = _OBJECTS.decode(body.decode())
    except RecursionError as error:
        raise InvalidRequest("body: nested too deep", field="body") from error
    except ValueError as error:
        raise InvalidRequest(f"body: is not JSON in UTF-8: {error}", field="body") from error
    if not isinstance(found, tuple):
        raise InvalidRequest("body: must be a JSON object with a model", field="body")
    models = [value for name, value in found if name == "model"]
    if len(models) > 1:
        raise InvalidRequest("model: stands twice in the body; say one", field="model")
    said = dict(found)
    previous = said.get("previous_response_id")
    return Asked(
        model=checked_model(said.get("model")),
        streams=said.get("stream") is True,
        previous=previous if isinstance(previous, str) else "",
        beginning=_beginning(found) if with_beginning else b"",
    )


def with_model(body: bytes, model: str) -> bytes:
    """Return a JSON body with another model in the place of its own, and nothing else changed.

    Args:
        body: one that `asked_in_json` has read.
        model: the name to put there.
    """
    text = body.decode()
    at = _after_blanks(text, 0) + 1  # behind the {
    while True:
        name, at = _OBJECTS.raw_decode(text, _after_blanks(text, at))
        start = _after_blanks(text, _after_blanks(text, at) + 1)  # behind the :
        _, end = _OBJECTS.raw_decode(text, start)
        if name == "model":
            return f"{text[:start]}{json.dumps(model)}{text[end:]}".encode()
        at = _after_blanks(text, end) + 1  # behind the ,


def checked_model(model: object) -> str:
    """Return the name of a model as a request said it.

    Raises:
        InvalidRequest: it is no name.
    """
    if not isinstance(model, str) or not model:
        said = "is missing" if model is None else f"{model!r:.80} is not a name"
        raise InvalidRequest(
            f"model: {said}; say which model, GET /v1/models lists them", field="model"
        )
    return model


def model_in_query(query: str) -> str | None:
    """Return the model that a query says; None if it says none.

    Raises:
        InvalidRequest: it says several.
    """
    said = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == "model"]
    if len(said) > 1:
        raise InvalidRequest("model: stands twice in the query; say one", field="model")
    return checked_model(said[0]) if said else None


def point_for(routing: Routing, asked: Asked, session: str) -> int | None:
    """Return the point that keeps a request with others like it; None: nothing does.

    Args:
        routing: by what requests are kept together.
        asked: what it asks for.
        session: its X-Session-ID; "" for none.
    """
    if routing is Routing.SESSION and session:
        return point_of(session.encode())
    if routing is Routing.PREFIX and asked.beginning:
        return point_of(asked.beginning)
    return None


def _beginning(said: Iterable[tuple[str, object]]) -> bytes:
    """Return the beginning of a prompt: of what the system says, and of what the user said first.

    In a conversation both stay the same, so it finds its own cache again.
    """
    parts: list[str] = []
    for name, value in said:
        if name == "messages" and isinstance(value, list):
            parts += _first_of_each_role(value)
        elif name in ("prompt", "input", "instructions", "system"):
            parts.append(_text(value))
    return b"\x00".join(part.encode(errors="replace")[:PREFIX_BYTES] for part in parts if part)


def _first_of_each_role(messages: list[object]) -> list[str]:
    first: dict[str, str] = {}
    for message in messages:
        if isinstance(message, tuple):
            fields = dict(message)
            role = _text(fields.get("role"))
            if role not in first:
                first[role] = _text(fields.get("content"))
            if role == "user":
                break
    return list(first.values())


def _text(value: object, deepest: int = _DEEPEST) -> str:
    """Return the beginning of what a prompt says in any of the shapes it may have."""
    if deepest == 0:
        return ""
    match value:
        case str():
            return value[:PREFIX_BYTES]
        case list():  # of parts, of token ids, or of messages
            return " ".join(_text(part, deepest - 1) for part in value[:PREFIX_BYTES])[
                :PREFIX_BYTES
            ]
        case tuple():  # an object
            return " ".join(_text(inner, deepest - 1) for _, inner in value)[:PREFIX_BYTES]
        case None:
            return ""
    return str(value)


def _after_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return at if found is None else found.end()


_BLANKS = re.compile(r"[ \t\n\r]*")
_OBJECTS = json.JSONDecoder(object_pairs_hook=tuple)  # tells an object, a tuple, from a list
