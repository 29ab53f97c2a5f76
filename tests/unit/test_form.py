"""The model of a form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidRequest
from web.proxy.form import asked_in_form, is_form

KIND = "multipart/form-data; boundary=XyZ"


def form(*parts: tuple[str, bytes]) -> bytes:
    """Return a form of fields, whose names may hold further options."""
    lines = b"".join(
        b"--XyZ\r\nContent-Disposition: form-data; name=%b\r\n\r\n%b\r\n" % (name.encode(), value)
        for name, value in parts
    )
    return lines + b"--XyZ--\r\n"


def pieces(body: bytes, size: int) -> list[bytes]:
    """Return `body` in pieces."""
    return [body[at : at + size] for at in range(0, len(body), size)]


@given(st.binary(max_size=300), st.integers(1, 80), st.booleans())
def test_the_model_is_found_wherever_it_stands(
    sound: bytes,
    size: int,
    model_first: bool,
) -> None:
    if b"--XyZ" in sound:
        return
    parts = [('"model"', b"org/whisper"), ('"file"; filename="model"', sound)]
    body = form(*(parts if model_first else reversed(parts)))
    assert asked_in_form(pieces(body, size), KIND).model == "org/whisper"


def test_a_form_may_ask_for_a_stream() -> None:
    assert asked_in_form([form(('"model"', b"m"), ('"stream"', b"true"))], KIND).streams
    assert not asked_in_form([form(('"model"', b"m"))], KIND).streams


def test_a_plain_form_says_it_too() -> None:
    kind = "application/x-www-form-urlencoded"
    assert asked_in_form([b"a=b&mod", b"el=org%2Fm"], kind).model == "org/m"


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (form(('"a"', b"b")), KIND, "missing"),
        (form(('"model"', b"a"), ('"model"', b"b")), KIND, "twice"),
        (form(('"model"', b"a" * 5000)), KIND, "longer than"),
        (form(('"model"', b"\xff")), KIND, "body"),
        (form(('"model"', b"a"))[:-4], KIND, "body"),
        (b"nothing of the kind", KIND, "body"),
        (form(('"model"', b"a")), "multipart/form-data", "boundary"),
        (b'{"model":"a"}', "application/x-www-form-urlencoded", "application/json"),
        (b"model=a&model=b", "application/x-www-form-urlencoded", "twice"),
        (b"x=" + b"a" * 2**20, "application/x-www-form-urlencoded", "longer than"),
    ],
)
def test_a_form_that_does_not_say_one_model(body: bytes, kind: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        asked_in_form(pieces(body, 1000), kind)


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data; boundary=XyZ; boundary=other",
        "multipart/form-data; boundary=other; Boundary*=utf-8''XyZ",
    ],
)
def test_two_boundaries_are_two_readings(kind: str) -> None:
    with pytest.raises(InvalidRequest, match="several boundaries"):
        asked_in_form([form(('"model"', b"m"))], kind)


def test_a_boundary_may_hold_the_word() -> None:
    kind = f"{KIND}; a=boundary"
    assert asked_in_form([form(('"model"', b"m"))], kind).model == "m"


def test_a_name_that_readers_take_differently_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"name\*="):
        asked_in_form([form(("\"file\"; name*=utf-8''model", b"m"))], KIND)


def test_what_is_a_form() -> None:
    assert is_form("Multipart/Form-Data; boundary=x")
    assert is_form("application/x-www-form-urlencoded")
    assert not is_form("application/json")
