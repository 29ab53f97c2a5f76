"""Secrets that an engine was given never come out in its log lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.redaction import BLOT, blotted, secrets_in

ENV = {
    "HF_TOKEN": "planted-hub-token",
    "VLLM_API_KEY": "planted-engine-key",
    "MY_PASSWORD": "planted-password",
    "HTTPS_PROXY": "http://me:planted%20proxy@proxy:3128",
    "HTTP_PROXY": "me:planted-bare@proxy:3128",
    "PATH": "/usr/bin",
    "TOKENIZERS_PARALLELISM": "false",
    "S3_KEY": "short",
}


def test_secrets_are_told_by_name_and_by_where_they_stand_in_a_url() -> None:
    assert secrets_in(ENV) == {
        "planted-hub-token",
        "planted-engine-key",
        "planted-password",
        "planted%20proxy",
        "planted proxy",
        "planted-bare",
    }


def test_a_value_that_only_looks_like_a_url_holds_none() -> None:
    assert secrets_in({"X": "http://[@", "Y": "a@b", "Z": ""}) == frozenset()


@pytest.mark.parametrize(
    ("line", "clean"),
    [
        ("token=planted-hub-token, ok", f"token={BLOT}, ok"),
        ("planted-hub-tokenplanted-engine-key", BLOT + BLOT),
        ("GET http://any:body@host/x", f"GET http://{BLOT}@host/x"),
        ("redis://:hush@host:6379/0", f"redis://{BLOT}@host:6379/0"),
        ("Authorization: Bearer abcdefgh.ij", f"Authorization: Bearer {BLOT}"),
        ("hf_" + "a1" * 12, BLOT),
        ("hf_overrides and org/name@main at 12:30", "hf_overrides and org/name@main at 12:30"),
    ],
)
def test_a_line_without_its_secrets(line: str, clean: str) -> None:
    assert blotted(line, secrets_in(ENV)) == clean


def test_a_secret_that_begins_another_leaves_nothing_of_it() -> None:
    assert blotted("abcdef-longer", {"abcdef", "abcdef-longer"}) == BLOT


@given(st.text(), st.sampled_from(sorted(secrets_in(ENV))), st.text())
def test_no_secret_is_left_wherever_it_stands(before: str, secret: str, after: str) -> None:
    assert secret not in blotted(before + secret + after, secrets_in(ENV))
