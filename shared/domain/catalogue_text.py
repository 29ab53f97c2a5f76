"""The text of a catalogue of models, read and checked. Pure.

models:
  - name: chat
    model: Qwen/Qwen3-8B
    params: {max_model_len: 8192}
    replicas: {min: 0, max: 2}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from shared.domain import params
from shared.domain.catalogue import TARGET, Catalogue, Entry, catalogue_of
from shared.domain.engine_env import checked_env
from shared.domain.models import checked_name
from shared.domain.yaml_values import Value, YamlFault, read
from shared.errors import CatalogueFault, InvalidRequest

_KEYS = (
    "name", "model", "params", "env", "timeout", "replicas", "aliases", "pinned", "priority",
    "labels",
)  # fmt: skip
_REPLICAS = ("min", "max", "target")
_MOST_REPLICAS = 1_000
_MOST_TIMEOUT_S = 10 * 365 * 86_400  # as of instances
_MOST_PRIORITY = 1_000_000
_NAME = re.compile(r"[^\s,]{1,512}")

_SPEC = {"model_name": "model"}
"""What errors about an instance call a thing, and what it is called here."""


def parse(text: str, check: Callable[[Entry], None] = lambda _: None) -> Catalogue:
    """Return the catalogue that `text` is.

    Args:
        text: YAML, see `yaml_values`.
        check: refuses an entry that may not be started, by InvalidRequest.

    Raises:
        CatalogueFault: it cannot be used; says every fault, each with its line and key.
    """
    try:
        document = read(text)
    except YamlFault as fault:
        raise CatalogueFault([str(fault)]) from fault
    reading = _Reading(check)
    entries = reading.entries(document)
    if reading.faults:
        raise CatalogueFault(reading.faults)
    return catalogue_of(entries)


class _Fault(Exception):
    """One thing is wrong with one entry."""


class _Reading:
    def __init__(self, check: Callable[[Entry], None]) -> None:
        self._check = check
        self._named: dict[str, int] = {}  # names and aliases so far, and their lines
        self.faults: list[str] = []

    def entries(self, document: Value) -> tuple[Entry, ...]:
        """Return what could be read; what could not is in `faults`."""
        if document.value is None:
            return ()
        try:
            listed = _listed(document)
        except _Fault as fault:
            self.faults.append(str(fault))
            return ()
        found = []
        for index, item in enumerate(listed):
            try:
                found.append(self._entry(f"models[{index}]", item))
            except _Fault as fault:
                self.faults.append(str(fault))
        return tuple(found)

    def _entry(self, where: str, item: Value) -> Entry:
        keys = _mapping(where, item, _KEYS)
        if "name" not in keys:
            raise _fault(item, where, "has no name")
        name = self._name(f"{where}.name", keys["name"])
        minimum, maximum, target = _replicas(f"{where}.replicas", keys.get("replicas"))
        pinned = _flag(f"{where}.pinned", keys.get("pinned"))
        entry = Entry(
            name=name,
            model=_text(f"{where}.model", keys["model"]) if "model" in keys else name,
            params=_params(where, keys.get("params")),
            env=_env(where, keys.get("env")),
            timeout=_timeout(f"{where}.timeout", keys.get("timeout"), pinned=pinned),
            min_replicas=minimum,
            max_replicas=maximum,
            target=target,
            aliases=self._aliases(f"{where}.aliases", keys.get("aliases")),
            pinned=pinned,
            priority=_whole(
                f"{where}.priority", keys.get("priority"), 0, -_MOST_PRIORITY, _MOST_PRIORITY
            ),
            labels=_labels(f"{where}.labels", keys.get("labels")),
            line=item.line,
        )
        for given in set(entry.names) - {name, *entry.aliases}:
            self._take(f"{where}.params.served_model_name", keys["params"], given)
        try:
            checked_name(entry.model, where="model_name")
            self._check(entry)
        except InvalidRequest as error:
            raise _translated(error, where, item, keys) from error
        return entry

    def _name(self, where: str, given: Value) -> str:
        name = _text(where, given)
        if not _NAME.fullmatch(name) or not name.isprintable():
            raise _fault(
                given, where, f"{name!r} is no name: 1 to 512 characters, no spaces, commas"
            )
        self._take(where, given, name)
        return name

    def _take(self, where: str, given: Value, name: str) -> None:
        if name in self._named:
            line = self._named[name]
            raise _fault(given, where, f"{name!r} is a name of the model in line {line} already")
        self._named[name] = given.line

    def _aliases(self, where: str, given: Value | None) -> tuple[str, ...]:
        if given is None or given.value is None:
            return ()
        if not isinstance(given.value, list):
            raise _fault(given, where, "must be a list of names, like [gpt-4o, default]")
        return tuple(self._name(f"{where}[{i}]", item) for i, item in enumerate(given.value))


def _listed(document: Value) -> list[Value]:
    top = _mapping("the catalogue", document, ("models",))
    models = top.get("models")
    if models is None or models.value is None:
        return []
    if not isinstance(models.value, list):
        raise _fault(models, "models", "must be a list of models, each with `- name:`")
    return models.value


def _mapping(where: str, item: Value, known: tuple[str, ...]) -> dict[str, Value]:
    if not isinstance(item.value, dict):
        raise _fault(item, where, f"must be a mapping with the keys {', '.join(known)}")
    for key, value in item.value.items():
        if key not in known:
            raise _fault(value, f"{where}.{key}", f"unknown key; the keys are {', '.join(known)}")
    return item.value


def _replicas(where: str, given: Value | None) -> tuple[int, int, int]:
    keys = {} if given is None or given.value is None else _mapping(where, given, _REPLICAS)
    least = _whole(f"{where}.min", keys.get("min"), 0, 0, _MOST_REPLICAS)
    most = _whole(f"{where}.max", keys.get("max"), max(1, least), 1, _MOST_REPLICAS)
    target = _whole(f"{where}.target", keys.get("target"), TARGET, 1, 1_000_000)
    if most < least:
        raise _fault(keys["max"], f"{where}.max", f"{most} is less than min, which is {least}")
    return least, most, target


def _params(where: str, given: Value | None) -> Mapping[str, object]:
    plain = _object(f"{where}.params", given, "{max_model_len: 8192}")
    try:
        checked = params.checked(plain, field="params")
        params.gpu_count(checked)
    except InvalidRequest as error:
        raise _translated(error, where, given, {"params": given}) from error
    return checked


def _env(where: str, given: Value | None) -> Mapping[str, str]:
    plain = _object(f"{where}.env", given, "{VLLM_LOGGING_LEVEL: DEBUG}")
    try:
        return checked_env(plain, field="env")
    except InvalidRequest as error:
        raise _translated(error, where, given, {"env": given}) from error


def _object(where: str, given: Value | None, like: str) -> Mapping[str, object]:
    if given is None or given.value is None:
        return {}
    plain = given.plain()
    if not isinstance(plain, dict):
        raise _fault(given, where, f"must be a mapping, like {like}")
    return plain


def _timeout(where: str, given: Value | None, *, pinned: bool) -> int | None:
    if given is None or given.value is None:
        return None
    seconds = _whole(where, given, 0, 0, _MOST_TIMEOUT_S)
    if pinned and seconds:
        raise _fault(
            given,
            where,
            f"{seconds} s, but it is pinned, so it is never idle; leave one of them out",
        )
    return seconds


def _labels(where: str, given: Value | None) -> Mapping[str, str]:
    labels = {}
    for key, item in _object(where, given, "{gpu: h100}").items():
        if not isinstance(item, (str, int)) or item == "":
            raise _fault(given, f"{where}.{key}", f"{item!r} is not a word")
        labels[key] = str(item).lower() if isinstance(item, bool) else str(item)
    return labels


def _text(where: str, given: Value) -> str:
    if not isinstance(given.value, str) or not given.value:
        raise _fault(
            given, where, f"{given.plain()!r} is not text; quote it if it is meant as such"
        )
    return given.value


def _flag(where: str, given: Value | None) -> bool:
    if given is None or given.value is None:
        return False
    if not isinstance(given.value, bool):
        raise _fault(given, where, f"{given.plain()!r} is neither true nor false")
    return given.value


def _whole(where: str, given: Value | None, default: int, least: int, most: int) -> int:
    if given is None or given.value is None:
        return default
    number = given.value
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
        raise _fault(
            given, where, f"{given.plain()!r} is not a whole number from {least} to {most}"
        )
    return number


def _fault(given: Value | None, where: str, why: str) -> _Fault:
    return _Fault(f"line {given.line if given else 1}: {where}: {why}")


def _translated(
    error: InvalidRequest, where: str, item: Value | None, keys: Mapping[str, Value | None]
) -> _Fault:
    """Return what is said of a request's field as a fault of the key that stands for it."""
    field, _, key = (error.field or "").partition(".")
    name = _SPEC.get(field, field)
    at = keys.get(name) or item
    if at is not None and isinstance(at.value, dict) and key in at.value:
        at = at.value[key]
    said = str(error).removeprefix(f"{error.field}: ")
    path = ".".join(part for part in (where, name, key) if part)
    return _fault(at, path, said)
