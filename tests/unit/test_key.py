"""API keys: how they are written, what they cover, how long they live."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.key import (
    Key,
    KeyState,
    Scope,
    checked_models,
    checked_name,
    covers,
    digest_of,
    expiry_of,
    new_secret,
    seconds_of,
    split_token,
)
from shared.errors import InvalidRequest

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()


def test_a_new_key_names_itself_and_its_digest_is_kept() -> None:
    made = new_secret()
    key_id, secret = split_token(made.token.encode())
    assert key_id == made.key_id
    assert len(secret) == 43
    assert digest_of(secret).hex() == made.digest


def test_no_two_keys_are_the_same() -> None:
    made = [new_secret() for _ in range(100)]
    assert len({key.token for key in made}) == len({key.key_id for key in made}) == 100


def test_what_is_kept_does_not_show_the_secret() -> None:
    made = new_secret()
    secret = made.token.rsplit("_", 1)[1]
    assert made.token not in repr(made)
    assert secret not in repr(made)
    assert made.digest not in repr(
        Key(key_id=made.key_id, name="a", scope=Scope.ADMIN, digest=made.digest)
    )


@given(st.binary(max_size=200))
def test_any_bytes_can_be_split(token: bytes) -> None:
    key_id, secret = split_token(token)
    assert key_id == "" or token == f"vfm_{key_id}_".encode() + secret


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token + b"\n",
        lambda token: b" " + token,
        lambda token: token[:-1],
        lambda token: token + b"a",
        lambda token: token.upper(),
        lambda token: token.replace(b"vfm_", b"vfm-"),
        lambda token: token[:-1] + b"\xff",
        lambda token: token[:-1] + b"=",
        lambda token: token * 10_000,
    ],
)
def test_what_is_not_quite_a_key_has_no_id(spoil: object) -> None:
    assert callable(spoil)
    token = spoil(new_secret().token.encode())
    assert split_token(token) == ("", token)


def a_key(expires_at: float | None = None, revoked_at: float | None = None) -> Key:
    """Return a key with these times."""
    return Key(
        key_id="aaaaaaaa",
        name="a",
        scope=Scope.INFERENCE,
        digest="00",
        expires_at=expires_at,
        revoked_at=revoked_at,
    )


@pytest.mark.parametrize(
    ("key", "state"),
    [
        (a_key(), KeyState.ACTIVE),
        (a_key(expires_at=NOW + 0.001), KeyState.ACTIVE),
        (a_key(expires_at=NOW), KeyState.EXPIRED),
        (a_key(revoked_at=NOW - 5), KeyState.REVOKED),
        (a_key(revoked_at=NOW - 5, expires_at=NOW - 9), KeyState.REVOKED),
    ],
)
def test_the_state_of_a_key(key: Key, state: KeyState) -> None:
    assert key.state(NOW) is state


@pytest.mark.parametrize(
    ("models", "names", "expected"),
    [
        ((), ("org/a",), True),
        (("org/a",), ("org/a",), True),
        (("org/a",), ("org/ab",), False),
        (("org/a",), ("ORG/A",), False),
        (("org/*",), ("org/a/b",), True),
        (("org/*",), ("other/org/a",), False),
        (("x", "org/?"), ("org/a",), True),
        (("org/[ab]",), ("org/b",), True),
        (("org/[!ab]",), ("org/b",), False),
        (("tiny",), ("org/a", "tiny"), True),
        (("org.a",), ("orgxa",), False),
        (("*",), ("anything",), True),
    ],
)
def test_what_globs_cover(
    models: tuple[str, ...], names: tuple[str, ...], *, expected: bool
) -> None:
    assert covers(models, names) is expected


@pytest.mark.parametrize(
    "glob", ["", "a b", "a\n", "mødel", "[", "a[b", "a[!b", "[]", "[a]x[b", "x" * 257]
)
def test_a_bad_glob_is_refused(glob: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a glob") as refused:
        checked_models(Scope.INFERENCE, [glob])
    assert refused.value.field == "model"


def test_good_globs_are_kept_once_in_their_order() -> None:
    globs = ["org/*", "b[]]", "a[!x]", "org/*"]
    assert checked_models(Scope.INFERENCE, globs) == ("org/*", "b[]]", "a[!x]")


def test_an_admin_key_has_no_models() -> None:
    assert checked_models(Scope.ADMIN, []) == ()
    with pytest.raises(InvalidRequest, match="an admin key is for all models"):
        checked_models(Scope.ADMIN, ["a"])


@pytest.mark.parametrize("name", ["a", "CI", "ann@example.org", "team-7_x.y", "a" * 63])
def test_a_good_name(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize("name", ["", " a", "a b", "-a", "a\n", "a\x1b[0m", "é", "a" * 64])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        checked_name(name)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("45s", 45),
        ("90m", 5_400),
        ("24h", 86_400),
        ("30d", 2_592_000),
        ("2w", 1_209_600),
    ],
)
def test_a_duration_in_seconds(text: str, seconds: float) -> None:
    assert seconds_of(text, field="overlap") == seconds


@pytest.mark.parametrize(
    "text", ["", "24", "h", "1.5h", "-1h", "24H", "1y", "1 d", "٣d", "999999999w", "1h30m"]
)
def test_a_bad_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"overlap: .* is not a duration"):
        seconds_of(text, field="overlap")


def test_a_key_lives_for_a_duration_or_up_to_a_date() -> None:
    assert expiry_of("30d", NOW) == NOW + 30 * 86_400
    assert expiry_of("2027-01-01", NOW) == datetime(2027, 1, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("text", ["0d", "2026-11-23", "1999-01-01"])
def test_an_expiry_is_in_the_future(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is not in the future"):
        expiry_of(text, NOW)


@pytest.mark.parametrize("text", ["", "never", "2027-13-01", "01.01.2027", "2027-01-01T00:00"])
def test_a_bad_expiry_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="neither a duration like 30d nor a date"):
        expiry_of(text, NOW)
