"""What a request says about where it should go; and that nobody else could read it otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.choice import Routing
from shared.errors import InvalidRequest
from web.proxy.asked import Asked, asked_in_json, is_json, model_in_query, point_for, with_model

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
_OTHERS = st.dictionaries(st.text().filter(lambda name: name != "model"), _VALUES, max_size=5)
_BLANKS = st.sampled_from(["", " ", "\n", "\t\r\n "])


def written(fields: dict[str, Any], blank: str, *, ascii_only: bool) -> bytes:
    """Return an object as JSON, with blanks wherever JSON has them."""
    members = (
        f"{blank}{json.dumps(name, ensure_ascii=ascii_only)}{blank}:{blank}"
        f"{json.dumps(value, ensure_ascii=ascii_only)}{blank}"
        for name, value in fields.items()
    )
    return f"{blank}{{{','.join(members)}}}{blank}".encode("utf-8", "surrogatepass")


@given(_OTHERS, st.text(min_size=1), _OTHERS, _BLANKS, st.booleans())
def test_the_model_is_what_a_reader_of_json_takes_for_it(
    before: dict[str, Any],
    model: str,
    after: dict[str, Any],
    blank: str,
    ascii_only: bool,
) -> None:
    fields = {**before, "model": model, **{n: v for n, v in after.items() if n not in before}}
    body = written(fields, blank, ascii_only=ascii_only)
    assert asked_in_json(body).model == json.loads(body)["model"]


@given(_OTHERS, st.text(min_size=1), st.text(min_size=1), _BLANKS)
def test_only_the_model_is_written_anew(
    others: dict[str, Any], model: str, other: str, blank: str
) -> None:
    body = written({**others, "model": model, "z": {"model": 1}}, blank, ascii_only=True)
    renamed = with_model(body, other)
    assert json.loads(renamed) == {**json.loads(body), "model": other}
    assert len(renamed) - len(body) == len(json.dumps(other)) - len(json.dumps(model))


@pytest.mark.parametrize(
    ("body", "streams", "previous"),
    [
        ({"model": "m", "stream": True, "previous_response_id": "resp_1"}, True, "resp_1"),
        ({"model": "m", "stream": False, "previous_response_id": None}, False, ""),
        ({"model": "m", "stream": "true", "previous_response_id": 7}, False, ""),
        ({"model": "m", "a": {"stream": True}}, False, ""),
    ],
)
def test_what_else_it_says(body: dict[str, Any], previous: str, *, streams: bool) -> None:
    asked = asked_in_json(json.dumps(body).encode())
    assert (asked.model, asked.streams, asked.previous) == ("m", streams, previous)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        (" application/vnd.api+json", True),
        ("application/jsonp", False),
        ("text/plain", False),
        ("", False),
    ],
)
def test_what_is_json(content_type: str, *, expected: bool) -> None:
    assert is_json(content_type) is expected


@pytest.mark.parametrize(
    ("query", "model"),
    [
        ("", None),
        ("a=b", None),
        ("model=org%2Ftiny", "org/tiny"),
        ("a=b&model=a+b", "a b"),
        ("Model=x", None),
    ],
)
def test_the_model_of_a_query(query: str, model: str | None) -> None:
    assert model_in_query(query) == model


@pytest.mark.parametrize("query", ["model=a&model=b", "model=a&model=a", "model="])
def test_a_query_that_does_not_say_one_model(query: str) -> None:
    with pytest.raises(InvalidRequest, match="model"):
        model_in_query(query)


# what keeps requests together


def beginning(**fields: Any) -> bytes:
    """Return the beginning of a prompt."""
    body = json.dumps({"model": "m", **fields}).encode()
    return asked_in_json(body, with_beginning=True).beginning


def test_a_deep_prompt_has_one_too() -> None:
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    for said in ({"input": deep}, {"messages": [{"role": deep, "content": deep}]}):
        assert len(beginning(**said)) <= 256


def chat(*messages: tuple[str, str]) -> bytes:
    """Return the beginning of a chat."""
    return beginning(messages=[{"role": role, "content": said} for role, said in messages])


def test_a_conversation_that_goes_on_begins_the_same() -> None:
    first = chat(("system", "be kind"), ("user", "hello"))
    later = chat(
        ("system", "be kind"), ("user", "hello"), ("assistant", "hi"), ("user", "and then?")
    )
    assert first == later
    assert first != chat(("system", "be kind"), ("user", "good bye"))
    assert first != chat(("system", "be rude"), ("user", "hello"))


def test_parts_are_read_like_text() -> None:
    parts = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {}}]
    assert beginning(messages=[{"role": "user", "content": parts}])


@pytest.mark.parametrize(
    "prompt", ["once upon a time", ["once", "upon"], [1, 2, 3], [[1, 2], [3]], "é" * 1000]
)
def test_prompts_of_all_shapes_have_a_beginning(prompt: Any) -> None:
    assert 0 < len(beginning(prompt=prompt)) <= 256
    assert beginning(prompt=prompt) == beginning(prompt=prompt, temperature=1)
    assert beginning(input=prompt) == beginning(prompt=prompt)


def test_what_is_far_behind_the_beginning_does_not_count() -> None:
    assert beginning(prompt="a" * 300 + "b") == beginning(prompt="a" * 300 + "c")


def test_requests_are_kept_together_only_where_asked() -> None:
    asked = Asked("m", streams=False, previous="", beginning=b"once")
    empty = Asked("m", streams=False, previous="", beginning=b"")
    assert point_for(Routing.LEAST, asked, "s") is None
    assert point_for(Routing.PREFIX, asked, "s") == point_for(Routing.PREFIX, asked, "t")
    assert point_for(Routing.PREFIX, empty, "s") is None
    assert point_for(Routing.SESSION, asked, "s") == point_for(Routing.SESSION, empty, "s")
    assert point_for(Routing.SESSION, asked, "") is None
