"""Records as Redis hash fields and back.

Strings are stored as they are, so that scripts and people can read them; everything else as JSON;
None as an absent field.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

from shared.domain.instance import Desired, Exit, Instance, Status
from shared.domain.key import Key, Scope
from shared.domain.node import Claim, Gpu, GpuMemory, Load, NodeReport, Orphan
from shared.domain.placement import Placement
from shared.domain.wanted import WHOLE, Wanted

_STRINGS = frozenset(
    {
        "instance_id", "model_name", "node", "desired", "stop_reason", "stop_by", "status",
        "reason", "stage", "stage_detail", "host", "boot_id", "engine_key", "cause", "advice",
        "first_cause", "first_reason", "catalogue",
    }
)  # fmt: skip
UNREADABLE = "(unreadable)"
"""The name of an API key whose record cannot be read; no name of a key looks so."""

_FIELDS = frozenset(field.name for field in dataclasses.fields(Instance))
_REQUIRED = ("instance_id", "model_name", "params", "timeout", "node", "desired", "status")
_PARTS: dict[str, type[Exit | Placement | Wanted]] = {
    "exit": Exit, "reserved": Placement, "wanted": Wanted,
}  # fmt: skip
_REMEMBERED = 8192  # texts of fields, those used last
_LONGEST = 4096  # characters, of such a text

_NUMBER = (int, float)
_TOO_LARGE = 1e15  # scripts count in doubles, and by HINCRBY; see `countable` in `scripts`
_AS_JSON: dict[str, type | tuple[type, ...]] = {  # annotation → what json makes of such a field
    "int": int, "float": _NUMBER, "bool": bool, "str": str,
    "Exit": dict, "Placement": dict, "Wanted": dict,
    "Mapping[str, object]": dict, "Mapping[str, str]": dict, "Mapping[str, int]": dict,
    "tuple[str, ...]": list, "tuple[float, ...]": list,
}  # fmt: skip
_KINDS = {
    field.name: _AS_JSON[str(field.type).removesuffix(" | None")]
    for field in dataclasses.fields(Instance)
    if field.name not in _STRINGS
}
_ALIKE = _KINDS.keys() - {field for field, kind in _KINDS.items() if kind is _NUMBER}
"""Fields that many records have the same text in: it is read once, and they share what it says."""


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
            text = stored[name]
            alike = name in _ALIKE and len(text) <= _LONGEST
            values[name] = _decode_alike(name, text) if alike else _decode(name, text)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{name}: {error}") from error
    if missing := [name for name in _REQUIRED if name not in values]:
        raise ValueError(f"no {', '.join(missing)}")
    if "wanted" not in values:  # written by a version that gave each instance whole GPUs
        values["wanted"] = Wanted(gpus=len(values.get("gpus", ())) or 1)
    return Instance(**values)


def decode_claims(stored: Mapping[str, str]) -> tuple[Claim, ...]:
    """Return what instances hold of a node, by the hash of its claims."""
    return tuple(
        Claim(instance_id=instance_id, shares=_shares(text))
        for instance_id, text in sorted(stored.items())
    )


def encode_gpus(gpus: tuple[Gpu, ...]) -> str:
    """Return a node's devices as JSON; what changes of them is in reports."""
    return json.dumps(
        [
            {
                "index": gpu.index,
                "uuid": gpu.uuid,
                "name": gpu.name,
                "total_mib": gpu.total_mib,
                "simulated": gpu.simulated,
            }
            for gpu in gpus
        ]
    )


def decode_gpus(text: str) -> tuple[Gpu, ...]:
    """Return a node's devices."""
    return tuple(Gpu(**_known(Gpu, gpu)) for gpu in json.loads(text))


def encode_report(report: NodeReport) -> str:
    """Return what a node reports as JSON."""
    told = {
        "memory": {uuid: [of.free_mib, of.foreign_mib] for uuid, of in report.memory.items()},
        "loads": {name: [of.running, of.waiting] for name, of in report.loads.items()},
        "models": sorted(report.models),
    }
    return json.dumps(told, separators=(",", ":"))


def decode_report(text: str) -> NodeReport:
    """Return what a node reports."""
    told = json.loads(text)
    return NodeReport(
        memory={uuid: GpuMemory(*of[:2]) for uuid, of in told["memory"].items()},
        loads={name: Load(*of[:2]) for name, of in told["loads"].items()},
        models=frozenset(told["models"]),
    )


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


@lru_cache(maxsize=_REMEMBERED)
def _shares(text: str) -> dict[str, int]:
    held: dict[str, int] | list[str] = json.loads(text)
    # A list: claimed by a version that knew whole GPUs only. Lua has one empty table for both.
    return dict.fromkeys(held, WHOLE) if isinstance(held, list) else held


def _encode(name: str, value: object) -> str:
    if name in _STRINGS:
        return str(value)
    if isinstance(value, (Exit, Placement, Wanted)):
        value = dataclasses.asdict(value)
    return json.dumps(value, separators=(",", ":"))


@lru_cache(maxsize=_REMEMBERED)
def _decode_alike(name: str, text: str) -> object:
    return _decode(name, text)


def _decode(name: str, text: str) -> object:
    if name == "status":
        return Status(text)
    if name == "desired":
        return Desired(text)
    if name in _STRINGS:
        return text
    value = json.loads(text)
    _check(value, _KINDS[name], text)
    if name in _PARTS:
        return _part(_PARTS[name], value)
    return tuple(value) if isinstance(value, list) else value


def _part(kind: type[Exit | Placement | Wanted], stored: Mapping[str, Any]) -> object:
    """Return a part of a record; fields of newer versions are skipped."""
    values = _known(kind, stored)
    for field in dataclasses.fields(kind):
        annotation = str(field.type)
        value = values.get(field.name)
        if field.name not in values or (value is None and annotation.endswith(" | None")):
            continue
        try:
            _check(value, _AS_JSON[annotation.removesuffix(" | None")])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{field.name}: {error}") from error
        if isinstance(value, list):
            values[field.name] = tuple(value)
    return kind(**values)


def _check(value: object, kind: type | tuple[type, ...], text: str = "") -> None:
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not fits:
        raise TypeError(f"{type(value).__name__} is not what stands there")
    # NaN and infinity, too: no JSON that we answer with has them.
    if isinstance(value, _NUMBER) and not abs(value) < _TOO_LARGE:
        raise ValueError(f"{(text or json.dumps(value))[:40]} is no number to count with")


def _known(
    kind: type[Exit | Gpu | Orphan | Placement | Wanted], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return those values that `kind` has fields for; the others are a newer version's."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if name in names}
