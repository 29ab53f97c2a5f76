"""The request target of a proxied request: what is let through means one thing to everybody."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.errors import InvalidRequest
from web.proxy.target import engine_target

PREFIX = "/proxy/smol-aaaa2222"


@pytest.mark.parametrize(
    ("rest", "target"),
    [
        ("", "/"),
        ("/", "/"),
        ("?a=1", "/?a=1"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/models/", "/v1/models/"),
        ("/v1/models/org%20m", "/v1/models/org%20m"),
        ("/v1/a%3Fb", "/v1/a%3Fb"),
        ("/v1/%E5%8D%83", "/v1/%E5%8D%83"),
        ("/v1/a.b", "/v1/a.b"),
        ("/v1/..a", "/v1/..a"),
        ("/v1/a..", "/v1/a.."),
        ("/v1/...", "/v1/..."),
        ("/v1/~user/@x:y,z!$&'()*+=", "/v1/~user/@x:y,z!$&'()*+="),
        ("/v1/m?u=http://x//y/../z", "/v1/m?u=http://x//y/../z"),
        ("/v1/m?a=%2F%00%zz\\|^`{}", "/v1/m?a=%2F%00%zz\\|^`{}"),
        ("/v1/m??", "/v1/m??"),
        ("/v1/m?", "/v1/m?"),
    ],
)
def test_a_plain_target_is_sent_as_it_came(rest: str, target: str) -> None:
    assert engine_target(PREFIX + rest, PREFIX) == target


@pytest.mark.parametrize(
    "raw",
    [
        f"http://fleet:5000{PREFIX}/v1/models?a=1",
        f"HTTPS://user@fleet{PREFIX}/v1/models?a=1",
        f"http://{PREFIX}/v1/models?a=1",
    ],
)
def test_an_absolute_form_target_is_sent_without_its_origin(raw: str) -> None:
    assert engine_target(raw, PREFIX) == "/v1/models?a=1"


@pytest.mark.parametrize(
    "path",
    [
        "/..",
        "/../x",
        "/v1/../metrics",
        "/v1/a;b=c",
        "/v1/..;/metrics",
        "/v1/..%3B/metrics",
        "/v1/..",
        "/v1/.",
        "/./v1",
        "/v1/./m",
        "/%2e%2e/x",
        "/%2E%2E",
        "/.%2e/x",
        "/%2e./x",
        "/%2e/x",
        "/v1/%2e",
        "/v1%2Fmodels",
        "/v1%2fmodels",
        "/%2f",
        "/..%2fx",
        "/v1%5cmodels",
        "/v1%5C..%5Cx",
        "/v1\\models",
        "/..\\x",
        "/v1%00",
        "/v1/\x00",
        "/%252e%252e/x",
        "/%252fx",
        "/v1/a%25",
        "/%25%32%65",
        "//",
        "//v1",
        "/v1//models",
        "/v1/models//",
        "/v1/a b",
        "/v1/a\tb",
        "/v1/a\r\nX: y",
        "/v1/é",
        "/v1/%",
        "/v1/%2",
        "/v1/%zz",
        "/v1/%u002e",
        "/v1/a#b",
        "/..?a=1",
        "/v1/..#",
    ],
)
def test_a_path_that_could_mean_two_things_is_refused(path: str) -> None:
    with pytest.raises(InvalidRequest, match="path: ") as refused:
        engine_target(PREFIX + path, PREFIX)
    assert refused.value.field == "path"


@pytest.mark.parametrize("query", ["a b", "a\nb", "a#b", "a\x7fb", "a\x00b", "é", "a\r\nX: y"])
def test_a_query_that_would_break_the_request_line_is_refused(query: str) -> None:
    with pytest.raises(InvalidRequest, match="holds a fragment, a space or a control character"):
        engine_target(f"{PREFIX}/v1/models?{query}", PREFIX)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "/",
        "*",
        "fleet:443",
        "/proxy",
        "/proxy/smol-aaaa222",
        f"{PREFIX}x/v1",
        f"{PREFIX}%2Fv1",
        f"{PREFIX};x/v1",
        f"/{PREFIX}/v1",
        f"/x/..{PREFIX}/v1",
        f"/.{PREFIX}/v1",
        "/%70roxy/smol-aaaa2222/v1",
        "/proxy/smol%2Daaaa2222/v1",
        "/PROXY/smol-aaaa2222/v1",
        f"ftp://fleet{PREFIX}/v1",
        f"http:{PREFIX}/v1",
        f"http://fleet/x?y={PREFIX}/v1",
    ],
)
def test_a_path_that_does_not_begin_with_the_prefix_as_it_stands_is_refused(raw: str) -> None:
    with pytest.raises(InvalidRequest, match="path: "):
        engine_target(raw, PREFIX)


_NASTY = st.sampled_from(
    [
        "/",
        "//",
        ".",
        "..",
        "%2e",
        "%2E",
        "%2f",
        "%2F",
        "%5c",
        "\\",
        "%",
        "%25",
        "%00",
        ";",
        "?",
        "#",
    ]
)
_TARGETS = st.lists(_NASTY | st.text(max_size=3), max_size=8).map("".join)


@given(_TARGETS)
@example("/v1/models")
@example("/a%20b/?x=//..")
def test_what_is_let_through_is_plain_and_unchanged(rest: str) -> None:
    try:
        target = engine_target(PREFIX + rest, PREFIX)
    except InvalidRequest:
        return
    assert target in (rest, f"/{rest}")
    path = target.partition("?")[0]
    assert re.fullmatch(r"[!-~]+", target)
    assert not re.search(r"%(2f|5c|00)", path, re.IGNORECASE)
    for seen in (path, unquote(path)):
        segments = seen.split("/")
        assert "" not in segments[1:-1]
        assert not {".", ".."} & set(segments)
        assert "\\" not in seen
    # Decoding twice finds no more than decoding once: nobody is tricked by doing so.
    assert unquote(unquote(path)).split("/") == [
        unquote(segment) for segment in unquote(path).split("/")
    ]
    assert not {".", ".."} & set(unquote(unquote(path)).split("/"))
