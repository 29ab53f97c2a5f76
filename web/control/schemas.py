"""The body of POST /instances: read, checked, refused with the field's name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from shared.domain import params
from shared.domain.engine_env import checked_env
from shared.domain.models import checked_name
from shared.errors import InvalidRequest
from shared.store.line import MOST_PRIORITY

OF_PLACE = ("gpus", "node", "labels", "queue", "evict", "priority")
_FIELDS = ("model_name", "params", "env", "timeout", *OF_PLACE)
_MAX_TIMEOUT_S = 10 * 365 * 86_400
_MOST_GPUS = 1024
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")  # as NODE_NAME is checked


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    """Body of POST /instances, checked."""

    model_name: str
    params: Mapping[str, object] = field(default_factory=dict)  # full names; None: not inherited
    env: Mapping[str, str] = field(default_factory=dict)  # environment variables for the engine
    timeout: int | None = None  # idle seconds; None: the default
    gpus: int | tuple[str, ...] | None = None  # how many, or which: UUID or NODE:INDEX
    node: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)  # that its node must have
    queue: bool = False
    evict: bool = False
    priority: int = 0


def create_request(body: bytes) -> CreateRequest:
    """Return the checked body of POST /instances.

    Raises:
        InvalidRequest: names the field, what was wrong and what would be right.
    """
    fields = _json_object(body)
    for name in fields:
        if name not in _FIELDS:
            raise InvalidRequest(
                f"{name}: unknown field; the fields are {', '.join(_FIELDS)}", field=name
            )
    return CreateRequest(
        model_name=_model_name(fields.get("model_name")),
        params=params.checked(_object("params", fields, '{"max_model_len": 4096}'), field="params"),
        env=checked_env(_object("env", fields, '{"VLLM_LOGGING_LEVEL": "DEBUG"}'), field="env"),
        timeout=_timeout(fields.get("timeout")),
        gpus=_gpus(fields.get("gpus")),
        node=_node(fields.get("node")),
        labels=_labels(_object("labels", fields, '{"zone": "a"}')),
        queue=_boolean("queue", fields.get("queue")),
        evict=_boolean("evict", fields.get("evict")),
        priority=_priority(fields.get("priority")),
    )


def _json_object(body: bytes) -> dict[str, object]:
    try:
        fields = json.loads(body, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"body: not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidRequest('body: must be a JSON object like {"model_name": "org/model"}')
    return fields


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(f"{twice}: given twice", field=twice)
    return fields


def _no_constant(name: str) -> object:
    raise InvalidRequest(f"body: {name} is not JSON")


def _model_name(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(
            "model_name: required, a string: a name on the model hub, a folder in MODELS_DIR or "
            "an absolute path in there or in VLLM_MODEL_ROOTS",
            field="model_name",
        )
    return checked_name(value, where="model_name")


def _object(name: str, fields: Mapping[str, object], example: str) -> Mapping[str, object]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name}: must be an object like {example}", field=name)
    return value


def _timeout(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_TIMEOUT_S:
        raise InvalidRequest(
            f"timeout: {value!r} is not a whole number of idle seconds from 0 (never) to "
            f"{_MAX_TIMEOUT_S}",
            field="timeout",
        )
    return value


def _gpus(value: object) -> int | tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_GPUS:
        return value
    named = isinstance(value, list) and 0 < len(value) <= _MOST_GPUS
    if not named or not all(isinstance(one, str) and one for one in cast("list[object]", value)):
        raise InvalidRequest(
            f"gpus: {value!r} is neither how many, from 0 (a node without GPUs) to {_MOST_GPUS}, "
            'nor a list of which: ["GPU-<uuid>"] or ["NODE:0", "NODE:1"]',
            field="gpus",
        )
    names = tuple(cast("list[str]", value))
    if len(set(names)) < len(names):
        raise InvalidRequest("gpus: one is named twice", field="gpus")
    return names


def _node(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not _NODE.fullmatch(value):
        raise InvalidRequest(
            f"node: {value!r} is not the name of a node; GET /nodes lists them", field="node"
        )
    return value


def _labels(given: Mapping[str, object]) -> Mapping[str, str]:
    for name, value in given.items():
        if not isinstance(value, str):
            raise InvalidRequest(
                f'labels.{name}: {value!r} is not a string; labels look like {{"zone": "a"}}',
                field=f"labels.{name}",
            )
    return cast("Mapping[str, str]", given)


def _boolean(name: str, value: object) -> bool:
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name}: {value!r} is neither true nor false", field=name)
    return value


def _priority(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MOST_PRIORITY:
        raise InvalidRequest(
            f"priority: {value!r} is not a whole number from -{MOST_PRIORITY} to {MOST_PRIORITY}; "
            "higher comes first in the line, 0 is usual",
            field="priority",
        )
    return value
