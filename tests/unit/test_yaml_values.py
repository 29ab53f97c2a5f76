"""YAML as values that know their lines: the schema, the lines, and what is refused."""

import json
import math
import string
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.yaml_values import YamlFault, read


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("3", 3), ("-4", -4), ("0x1F", 31), ("0o17", 15), ("017", 17), ("1.5", 1.5), ("1e3", 1e3),
        (".5", 0.5), (".inf", math.inf), ("-.inf", -math.inf), ("true", True), ("False", False),
        ("null", None), ("~", None), ("no", "no"), ("on", "on"), ("1_000", "1_000"),
        ("12:30", "12:30"), ("2024-01-01", "2024-01-01"), ("=", "="), ("'3'", "3"), ('""', ""),
        (r'"\ud83d\ude00"', "😀"), ("|-\n  3", "3"), ("[no, on]", ["no", "on"]),
    ],
)  # fmt: skip
def test_words_are_what_the_core_schema_says(word: str, value: object) -> None:
    assert read(f"key: {word}").plain() == {"key": value}


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "---\n", "\ufeff"])
def test_an_empty_text_says_nothing(text: str) -> None:
    assert read(text).value is None


def test_values_know_their_lines() -> None:
    found = read("a: 1\nb:\n  - x\n\n  - {c: 1,\n     d: 2}\n")
    assert isinstance(found.value, dict)
    assert found.value["b"].line == 2  # the key's
    items = found.value["b"].value
    assert isinstance(items, list)
    last = items[1].value
    assert isinstance(last, dict)
    assert [items[0].line, items[1].line, last["d"].line] == [3, 5, 6]


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2", "line 2: a: given twice, before in line 1"),
        ("a:\n  x: 1\n'a': 2", "line 3: a: given twice, before in line 1"),
        ("{a: 1, a: 2}", "line 1: a: given twice"),
        (BOMB, "line 1: anchors (&) and aliases (*) are not supported; write it out"),
        ("a: 1\nb: *x", "line 2: anchors (&) and aliases (*)"),
        ("a: !!python/object/apply:os.getpid []", "line 1: tags (!)"),
        ("a: !x b", "line 1: tags (!)"),
        ("- 1\n---\n", "line 2: only one document is taken"),
        ("a: {1: 2}", "line 1: 1 is no key; quote it"),
        ("? [a]\n: 1", "line 1: ['a'] is no key; quote it"),
        ("a:\n\t- b", "line 2: found character '\\t' that cannot start any token"),
        ("a:\n\t- b", "; use spaces, not a tab"),
        ("a: @b", "; quote a word that begins with it"),
        ("a: b: c", "line 1: mapping values are not allowed here; a second `: `"),
        ("a: - b", "; a list begins on a line of its own"),
        ("a:\n    b: 1\n  c: 2", "line 3: expected <block end>"),
        ("a: 'x' y", "; it is indented differently, or stands behind a value that has ended"),
        ("a: 1\nb: 'x\nc: 1\n", "line 2: found unexpected end of stream, while scanning a quoted"),
        ("a: 1\nb: [1,\n2\n", "line 2: expected ',' or ']'"),
        (r'a: "\q"', "; double the backslash, or use single quotes"),
        ("a: 1\nb: \x01", "line 2: character U+0001 is not allowed"),
        ('a: 1\nb: "\\ud83d"', "line 2: half of a character"),
        ("%YAML 3.0\n---\na: 1", "line 1: found incompatible YAML document"),
        ("[" * 100, "line 1: nested deeper than 64 levels"),
        ("a: " + "[" * 100_000, "line 1: nested deeper than 64 levels"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(text: str, said: str) -> None:
    with pytest.raises(YamlFault) as fault:
        read(text)
    assert str(fault.value).startswith(said) or (said[0] == ";" and said in str(fault.value))


@given(st.text(alphabet=string.ascii_lowercase + " \n\t:-#'\"[]{},&*!|>%@`?\\01.~", max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(YamlFault):
        read(text)


_SCALARS = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("ab :#-'\"é😀,[]{}")
_KEYS = st.text("abc_- ", min_size=1)


@given(
    st.recursive(
        _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner)
    ),
    st.booleans(),
)
def test_json_is_yaml(value: object, ascii_only: bool) -> None:
    assert read(json.dumps(value, ensure_ascii=ascii_only)).plain() == value
