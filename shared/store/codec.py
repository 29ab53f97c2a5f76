"""Records as Redis hash fields and back.

Strings are stored as they are, so that scripts and people can read them; everything else as JSON;
None as an absent field.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any

from shared.domain.instance import Desired, Exit, Instance, Status
from shared.domain.key import Key, Scope
from shared.domain.node import Gpu, Orphan

_STRINGS = frozenset(
    {
        "instance_id", "model_name", "node", "desired", "stop_reason", "stop_by", "status",
        "reason", "stage", "stage_detail", "host", "boot_id", "engine_key", "cause", "advice",
        "first_cause", "first_reason",
    }
)  # fmt: skip
UNREADABLE = "(unreadable)"
"""The name of an API key whose record cannot be read; no name of a key looks so."""

_FIELDS = frozenset(field.name for field in dataclasses.fields(Instance))
_REQUIRED = ("instance_id", "model_name", "params", "timeout", "node", "desired", "status")
_NUMBER = (int, float)
_TOO_LARGE = 1e15  # scripts count in doubles, and by HINCRBY; see `countable` in `scripts`
_AS_JSON: dict[str, type | tuple[type, ...]] = {  # annotation → what json makes of such a field
    "int": int, "int | None": int, "float": _NUMBER, "float | None": _NUMBER, "Exit | None": dict,
    "Mapping[str, object]": dict, "Mapping[str, str]": dict,
    "tuple[str, ...]": list, "tuple[float, ...]": list,
}  # fmt: skip
_KINDS = {
    field.name: _AS_JSON[str(field.type)]
    for field in dataclasses.fields(Instance)
    if field.name not in _STRINGS
}


def encode(fields: Mapping[str, object]) -> dict[str, str]:
    """Return record fields as hash fields; those that are None are left out."""
    return {name: _encode(name, value) for name, value in fields.items() if value is not None}


def encode_instance(instance: Instance) -> dict[str, str]:
    """Return the whole record as hash fields."""
    return encode({name: getattr(instance, name) for name in _FIELDS})


def decode_instance(stored: Mapping[str, str]) -> Instance:
    """Return the record that the hash fields hold; fields of newer versions are skipped.

    Raises:
        ValueError: names the field that cannot be read, or is not there.
    """
    values: dict[str, Any] = {}
    for name in _FIELDS & stored.keys():
        try:
            values[name] = _decode(name, stored[name])
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{name}: {error}") from error
    if missing := [name for name in _REQUIRED if name not in values]:
        raise ValueError(f"no {', '.join(missing)}")
    return Instance(**values)


def encode_gpus(gpus: tuple[Gpu, ...]) -> str:
    """Return a node's devices as JSON."""
    return json.dumps([dataclasses.asdict(gpu) for gpu in gpus])


def decode_gpus(text: str) -> tuple[Gpu, ...]:
    """Return a node's devices."""
    return tuple(Gpu(**_known(Gpu, gpu)) for gpu in json.loads(text))


def encode_orphans(orphans: Collection[Orphan]) -> str:
    """Return what runs on a node without a record, as JSON."""
    return json.dumps([dataclasses.asdict(orphan) for orphan in orphans])


def decode_orphans(text: str) -> tuple[Orphan, ...]:
    """Return what runs on a node without a record."""
    return tuple(
        Orphan(**_known(Orphan, orphan) | {"pids": tuple(orphan["pids"])})
        for orphan in json.loads(text)
    )


def encode_key(key: Key) -> dict[str, str]:
    """Return an API key as hash fields, but for `created_at`, which the store sets."""
    values: dict[str, str | None] = {
        "name": key.name,
        "scope": key.scope,
        "digest": key.digest,
        "models": json.dumps(key.models),
        "expires_at": None if key.expires_at is None else json.dumps(key.expires_at),
    }
    return {name: text for name, text in values.items() if text is not None}


def decode_key(key_id: str, stored: Mapping[str, str]) -> Key:
    """Return the API key that the hash fields hold; fields of newer versions are skipped.

    Of fields that cannot be read, as of a scope that only a newer version knows, or that are gone,
    a key that opens nothing: one such record must not keep all others from being read, for then
    nothing could be revoked, nor be left out, for then no key might seem to have been made.
    """
    try:
        return _decode_key(key_id, stored)
    except (KeyError, TypeError, ValueError):
        return Key(key_id=key_id, name=UNREADABLE, scope=Scope.INFERENCE, digest="", revoked_at=0.0)


def _decode_key(key_id: str, stored: Mapping[str, str]) -> Key:
    bytes.fromhex(stored["digest"])
    times = {
        name: float(stored[name])
        for name in ("created_at", "expires_at", "revoked_at")
        if name in stored
    }
    return Key(
        key_id=key_id,
        name=stored["name"],
        scope=Scope(stored["scope"]),
        digest=stored["digest"],
        models=tuple(map(str, json.loads(stored["models"]))),
        successor=stored.get("successor", ""),
        **times,
    )


def _encode(name: str, value: object) -> str:
    if name in _STRINGS:
        return str(value)
    if isinstance(value, Exit):
        value = dataclasses.asdict(value)
    return json.dumps(value, separators=(",", ":"))


def _decode(name: str, text: str) -> object:
    if name == "status":
        return Status(text)
    if name == "desired":
        return Desired(text)
    if name in _STRINGS:
        return text
    value: Any = json.loads(text)
    fits = isinstance(value, _KINDS[name]) and not isinstance(value, bool)
    if not fits:
        raise TypeError(f"{type(value).__name__} is not what stands there")
    # NaN and infinity, too: no JSON that we answer with has them.
    if isinstance(value, _NUMBER) and not abs(value) < _TOO_LARGE:
        raise ValueError(f"{text[:40]} is no number to count with")
    if name == "exit":
        return Exit(**_known(Exit, value))
    return tuple(value) if isinstance(value, list) else value


def _known(kind: type[Exit | Gpu | Orphan], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those values that `kind` has fields for; the others are a newer version's."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if name in names}
