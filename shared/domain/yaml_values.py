"""A YAML text as values that know their lines. Pure: PyYAML reads it, and nothing is constructed.

Words are what YAML 1.2's core schema says (https://yaml.org/spec/1.2.2/, section 10.3), so `no` and
`on` are words, not switches as PyYAML's own schema has them. A key that is given twice is a fault;
so are anchors, with which a short text can be an endless value, tags, and a second document.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import yaml

_MAX_DEPTH = 64  # as for parameters; Python's own stack takes far more

_CORE: tuple[tuple[re.Pattern[str], Callable[[str], object]], ...] = (
    (re.compile(r"~|null|Null|NULL|"), lambda _: None),
    (re.compile(r"true|True|TRUE"), lambda _: True),
    (re.compile(r"false|False|FALSE"), lambda _: False),
    (re.compile(r"[-+]?[0-9]{1,300}"), int),
    (re.compile(r"0o[0-7]{1,100}"), lambda text: int(text, 0)),
    (re.compile(r"0x[0-9a-fA-F]{1,100}"), lambda text: int(text, 0)),
    (re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(?:inf|Inf|INF)"), lambda text: float(text.replace(".", ""))),
    (re.compile(r"\.(?:nan|NaN|NAN)"), lambda _: float("nan")),
)
_ADVICE = (  # what PyYAML's words mean to somebody who has never written a parser
    ("mapping values", "a second `: ` in a line has to be quoted, and keys of one mapping aligned"),
    ("sequence entries", "a list begins on a line of its own"),
    (r"character '\t'", "use spaces, not a tab"),
    ("cannot start any token", "quote a word that begins with it"),
    ("<block end>", "it is indented differently, or stands behind a value that has ended"),
    ("escape character", "double the backslash, or use single quotes"),
)


class YamlFault(Exception):
    """The text cannot be read."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")


@dataclass(frozen=True, slots=True)
class Value:
    """A value and where it stands: what is under a key stands in the key's line."""

    value: object  # list[Value], dict[str, Value], or a scalar
    line: int  # from 1

    def plain(self) -> object:
        """Return it without lines: lists, dicts and scalars."""
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        return self.value


def read(text: str) -> Value:
    """Return what the text says; of an empty one, None in line 1.

    Raises:
        YamlFault: it cannot be read; names the line.
    """
    try:
        return _Reading(text).document()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlFault(line, f"character U+{error.character:04X} is not allowed") from error
    except yaml.MarkedYAMLError as error:
        raise _fault(error) from error


class _Reading:
    """Takes PyYAML's events, of which each knows its line, one after another."""

    def __init__(self, text: str) -> None:
        self._events = yaml.parse(text, Loader=yaml.SafeLoader)
        self._depth = 0

    def document(self) -> Value:
        """Return the only document."""
        next(self._events)  # the stream begins
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return Value(None, 1)
        found = self._value(next(self._events))
        next(self._events)  # the document ends
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise YamlFault(_line(after), "only one document is taken")
        return found

    def _value(self, event: yaml.Event, line: int = 0) -> Value:
        """Return what begins with `event`; it stands in `line`, if that is given."""
        own = _line(event)
        if event.anchor is not None:
            raise YamlFault(own, "anchors (&) and aliases (*) are not supported; write it out")
        if isinstance(event, yaml.ScalarEvent):
            return Value(self._scalar(event), line or own)
        self._plain_tag(event)
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise YamlFault(own, f"nested deeper than {_MAX_DEPTH} levels")
        is_list = isinstance(event, yaml.SequenceStartEvent)
        found = self._list() if is_list else self._mapping()
        self._depth -= 1
        return Value(found, line or own)

    def _list(self) -> list[Value]:
        items = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event))
        return items

    def _mapping(self) -> dict[str, Value]:
        entries: dict[str, Value] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key, line = self._value(event), _line(event)
            if not isinstance(key.value, str):
                raise YamlFault(line, f"{key.plain()!r} is no key; quote it")
            if key.value in entries:
                before = entries[key.value].line
                raise YamlFault(line, f"{key.value}: given twice, before in line {before}")
            entries[key.value] = self._value(next(self._events), line)
        return entries

    def _scalar(self, event: yaml.ScalarEvent) -> object:
        self._plain_tag(event)
        text = _whole(event)
        if event.style is None:  # neither in quotes nor a block
            for pattern, value in _CORE:
                if pattern.fullmatch(text):
                    return value(text)
        return text

    def _plain_tag(self, event: yaml.NodeEvent) -> None:
        if event.tag is not None:
            why = "tags (!) are not supported; quote a word that begins with !"
            raise YamlFault(_line(event), why)


def _whole(event: yaml.ScalarEvent) -> str:
    r"""Return its text. JSON may write one as two (`"\ud83d\ude00"`), which PyYAML keeps."""
    try:
        return str(event.value).encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        raise YamlFault(_line(event), "half of a character (a lone surrogate)") from error


def _line(event: yaml.Event) -> int:
    return int(event.start_mark.line) + 1


def _fault(error: yaml.MarkedYAMLError) -> YamlFault:
    """Return what PyYAML says; of what has no end, where it has begun."""
    mark, context = error.problem_mark, error.context_mark
    if context and "end" in error.problem and "stream" in error.problem:
        mark = context
    said = f"{error.problem}, {error.context}" if error.context else error.problem
    advice = next((advice for word, advice in _ADVICE if word in error.problem), "")
    return YamlFault(mark.line + 1, f"{said}; {advice}" if advice else said)
