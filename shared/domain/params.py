"""vLLM's start parameters: merged, checked, rendered as a command line.

Names are kept in full and with `_`, however they were written: see `spelling`. Order, later wins:
the `VLLM_DEFAULT_*` settings, the `VLLM_CONFIG` file, the request. `null` removes what was
inherited. What a request may not ask for is in `unsafe`; here is what nobody may.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from shared.domain.spelling import full_name, subject
from shared.domain.vllm_flags import BOOLEANS, OBJECTS
from shared.errors import InvalidRequest

_MAX_DEPTH = 64  # far from where Python's own JSON writer gives up
_MAX_VALUE_CHARS = 16_384  # a chat template or a JSON object fits; a whole file does not

_TLS = "the proxy speaks plain HTTP to engines"
_ONE_NODE = "an instance runs on one node, behind one address"
_WHY_OWNED = {
    "model": "it is the field model_name",
    "model_tag": "it is the field model_name",
    "host": "the fleet decides where an engine listens",
    "port": "the node's worker chooses it from VLLM_BASE_PORT on",
    "uds": "the proxy reaches engines by host and port",
    "api_key": "each engine gets a random key that only the proxy knows",
    "config": "it would bypass these checks; put its values into params",
    "root_path": "the proxy sends the engine's own paths",
    "headless": "the fleet needs the engine's HTTP server",
    "grpc": "the fleet needs the engine's HTTP server",
    "grpc_port": "the proxy reaches engines by host and port",
    "help": "it starts no engine",
    "omni": "it would hand the command line to another program",
    "hf_token": "a command line can be read by everybody on the node; set HF_TOKEN",
    "ssl_keyfile": _TLS,
    "ssl_certfile": _TLS,
    "ssl_ca_certs": _TLS,
    "ssl_cert_reqs": _TLS,
    "ssl_ciphers": _TLS,
    "enable_ssl_refresh": _TLS,
    "nnodes": _ONE_NODE,
    "node_rank": _ONE_NODE,
    "master_addr": _ONE_NODE,
    "master_port": _ONE_NODE,
    "data_parallel_address": _ONE_NODE,
    "data_parallel_rank": _ONE_NODE,
    "data_parallel_start_rank": _ONE_NODE,
    "data_parallel_size_local": _ONE_NODE,
    "data_parallel_rpc_port": _ONE_NODE,
    "data_parallel_supervisor_port": _ONE_NODE,
    "data_parallel_hybrid_lb": _ONE_NODE,
    "data_parallel_external_lb": _ONE_NODE,
    "data_parallel_multi_port_external_lb": _ONE_NODE,
    "device_ids": "the fleet chooses the GPUs",
    "disable_log_stats": "the fleet reads the engine's /metrics",
}
VLLM_SHARE = 0.92
"""vLLM's own gpu_memory_utilization, where nobody gives one: 0.32.0, vllm/config/cache.py."""

_COUNTED = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "prefill_context_parallel_size",
    "data_parallel_size",
)
"""Parameters whose product is the number of GPUs."""

OWNED = frozenset(_WHY_OWNED)
"""Parameters that the fleet sets itself, in normal form."""
_NOT_VLLMS = frozenset(
    {"model_tag", "omni"}
)  # no options of vLLM's parser, which reads them anyway


def checked(params: Mapping[str, object], *, field: str) -> dict[str, object]:
    """Return `params` with full names, refusing what cannot be passed on.

    A JSON object that was written as text becomes the object, and what was switched by a `no_`
    name is switched by its own, so that each thing is said in one way only.

    Args:
        params: parameters as a caller or a file wrote them.
        field: where they stood, for messages: `params`, or the file's name.

    Raises:
        InvalidRequest: a name is not a flag's, is given twice or is the fleet's own, or a value
            cannot be rendered; names the parameter and the reason.
    """
    result: dict[str, object] = {}
    for written, given in params.items():
        where = f"{field}.{written}"
        name = full_name(written, where)
        _refuse_owned(name, where)
        if _is_deep(given):
            raise InvalidRequest(f"{where}: nested deeper than {_MAX_DEPTH} levels", field=where)
        _refuse_unrenderable(given, where)
        name, value = _plain(name, given, where)
        if name in result:
            raise InvalidRequest(
                f"{where}: given twice: {name} has several spellings, `_` and `-` are the same",
                field=where,
            )
        if name == "served_model_name":
            _refuse_odd_names(value, where)
        result[name] = value
    return result


def merge(*layers: Mapping[str, object]) -> dict[str, object]:
    """Return the layers as one, later ones winning; `None` removes what was inherited.

    Flags of the form `no_x` and `x` are one parameter, so `{"no_x": true}` replaces `x`.
    """
    merged: dict[str, object] = {}
    for layer in layers:
        for name, value in layer.items():
            merged.pop(_opposite(name), None)
            merged.pop(name, None)
            if value is not None:
                merged[name] = value
    return merged


def gpu_count(params: Mapping[str, object]) -> int:
    """Return how many GPUs an engine with these merged parameters uses.

    Raises:
        InvalidRequest: a parallel size is not a whole number of at least 1.
    """
    count = 1
    for name in _COUNTED:
        size = params.get(name, 1)
        if isinstance(size, str) and re.fullmatch(r"[0-9]{1,4}", size):
            size = int(size)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            where = f"params.{name}"
            raise InvalidRequest(
                f"{where}: {size!r} is not a whole number of at least 1", field=where
            )
        count *= size
    return count


def for_gpus(
    merged: Mapping[str, object], asked: Mapping[str, object], gpus: int
) -> dict[str, object]:
    """Return the merged parameters as they are for an engine on so many GPUs.

    Where the request names no parallel size, `tensor_parallel_size` becomes what makes up the
    number.

    Args:
        merged: all start parameters.
        asked: those of the request.
        gpus: how many; at least 1.

    Raises:
        InvalidRequest: the parallel sizes make up another number.
    """
    count = gpu_count(merged)
    if count == gpus:
        return dict(merged)
    others = gpu_count({name: size for name, size in merged.items() if name != _COUNTED[0]})
    if gpus % others or any(name in asked for name in _COUNTED):
        sizes = ", ".join(f"{name} {merged[name]}" for name in _COUNTED if name in merged)
        raise InvalidRequest(
            f"gpus: {gpus}, but the parallel sizes in params make up {count} ({sizes or 'none'}); "
            "leave out one or the other",
            field="gpus",
        )
    return {**merged, _COUNTED[0]: gpus // others}


def gpu_share(params: Mapping[str, object]) -> float:
    """Return what share of each GPU's memory an engine with these merged parameters takes.

    Raises:
        InvalidRequest: it is not a number above 0 and up to 1.
    """
    given = params.get("gpu_memory_utilization", VLLM_SHARE)
    try:
        share = float(given) if isinstance(given, (str, int, float)) else math.nan
    except ValueError:
        share = math.nan
    if isinstance(given, bool) or not 0 < share <= 1:
        where = "params.gpu_memory_utilization"
        raise InvalidRequest(f"{where}: {given!r} is not a number above 0 and up to 1", field=where)
    return share


def served_names(model_name: str, params: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names under which the engine lists its model, first one first."""
    given = params.get("served_model_name")
    if isinstance(given, str) and given:
        return (given,)
    if isinstance(given, Sequence) and given and not isinstance(given, str):
        return tuple(str(name) for name in given)
    return (model_name,)


def adapter_names(params: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names of the LoRA adapters that the engine begins with; requests may say them.

    `lora_modules` holds `NAME=PATH`, or objects with a `name` (vLLM 0.32, LoRAModulePath).
    """
    given = params.get("lora_modules")
    names = []
    for module in given if isinstance(given, Sequence) and not isinstance(given, str) else [given]:
        said = _as_json(module) if isinstance(module, str) else module
        if isinstance(said, Mapping):
            names.append(str(said.get("name", "")))
        elif isinstance(said, str):
            names.append(said.partition("=")[0])
    return tuple(name for name in names if name)


def render(params: Mapping[str, object]) -> list[str]:
    """Return the merged parameters as words of a command line.

    true → `--flag`, false → `--no-flag`, several values → the flag and each value, object → JSON,
    anything else → `--flag=value`, so that no value can be taken for a flag.
    """
    words: list[str] = []
    for name, value in params.items():
        flag = _flag(name)
        match value:
            case _ if "." in name:  # a key of a JSON parameter: always a value
                words.append(f"{flag}={_text(value)}")
            case True:
                words.append(flag)
            case False:
                words.append(_flag(_opposite(name)))
            case [single]:
                words.append(f"{flag}={_text(single)}")
            case list() | tuple():
                words += [flag, *(_text(item) for item in value)] if value else []
            case _:
                words.append(f"{flag}={_text(value)}")
    return words


def _opposite(name: str) -> str:
    return name.removeprefix("no_") if name.startswith("no_") else f"no_{name}"


def _flag(name: str) -> str:
    stem, dot, keys = name.partition(".")
    return f"--{stem.replace('_', '-')}{dot}{keys}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _refuse_owned(name: str, where: str) -> None:
    about = subject(name)
    if about in _WHY_OWNED:
        raise InvalidRequest(f"{where}: the fleet owns {about}: {_WHY_OWNED[about]}", field=where)
    for owned in _NOT_VLLMS:
        if owned.startswith(about):
            raise InvalidRequest(
                f"{where}: abbreviates {owned}, which the fleet owns; write names in full",
                field=where,
            )


def _plain(name: str, value: object, where: str) -> tuple[str, object]:
    about = subject(name)
    if about in BOOLEANS and name == f"no_{about}" and isinstance(value, bool):
        return about, not value
    if name not in OBJECTS:
        return name, value
    if isinstance(value, list) and len(value) == 1:  # is rendered as the one value
        value = value[0]
    if isinstance(value, str) and "{" in value:
        # Parsed by us and written anew: two parsers could read one text in two ways.
        return name, _parsed_object(value, where)
    return name, value


def _parsed_object(text: str, where: str) -> object:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{where}: not valid JSON: {error}", field=where) from error
    if not isinstance(found, dict):
        raise InvalidRequest(f"{where}: must be a JSON object", field=where)
    _refuse_unrenderable(found, where)
    return found


def _refuse_unrenderable(value: object, where: str) -> None:
    if isinstance(value, int):  # a bool, too
        return
    if isinstance(value, list):
        for item in value:
            _refuse_item(item, where)
    for string in _strings(value):
        if "\x00" in string:
            raise InvalidRequest(f"{where}: holds a NUL character", field=where)
        if not _is_utf8(string):
            raise InvalidRequest(f"{where}: holds half a character (a surrogate)", field=where)
    try:
        text = value if isinstance(value, str) else json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"{where}: a number is not finite", field=where) from error
    if len(text) > _MAX_VALUE_CHARS:
        raise InvalidRequest(
            f"{where}: {len(text)} characters; at most {_MAX_VALUE_CHARS} fit", field=where
        )


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [item for outer in level for item in _inside(outer)]
        if not level:
            return False
    return True


def _inside(value: object) -> Iterable[object]:
    match value:
        case dict():
            return value.values()
        case list():
            return value
        case str() if (said := _as_json(value)) != value:  # JSON in a text is one level deeper
            return [said]
    return ()


def _as_json(text: str) -> object:
    if text.lstrip()[:1] not in ("[", "{", '"'):
        return text
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):  # text to us, and to vLLM
        return text
    return found


def _refuse_item(item: object, where: str) -> None:
    if isinstance(item, (list, type(None))):
        raise InvalidRequest(
            f"{where}: a list holds strings, numbers or objects, not {item!r}", field=where
        )
    if _text(item).startswith("-"):
        # A list renders as separate words, where this one would be read as a flag; -1.5 too: for
        # vLLM's parser it has a dotted key, and takes the next word for its value.
        raise InvalidRequest(
            f"{where}: a value in a list cannot start with '-': {item!r}", field=where
        )


def _strings(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from _strings(item)
        case dict():
            for key, item in value.items():
                yield from _strings(key)
                yield from _strings(item)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_odd_names(value: object, where: str) -> None:
    names = value if isinstance(value, list) else [value]
    if value is not None and not (names and all(isinstance(name, str) and name for name in names)):
        raise InvalidRequest(f"{where}: {value!r} is not a name or a list of names", field=where)
