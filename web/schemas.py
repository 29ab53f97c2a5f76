"""Request bodies and arguments: read, checked, refused with the field's name."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from shared.domain import params
from shared.domain.engine_env import checked_env
from shared.domain.models import checked_name
from shared.errors import InvalidRequest, NotFound
from shared.store.history import RUNS_KEPT

_FIELDS = ("model_name", "params", "env", "timeout")
_MAX_TIMEOUT_S = 10 * 365 * 86_400
MAX_WAIT_S = 3_600.0
MAX_TAIL = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    """Body of POST /instances, checked."""

    model_name: str
    params: Mapping[str, object]  # full names; None removes what is inherited
    env: Mapping[str, str]  # environment variables for the engine
    timeout: int | None  # idle seconds; None: the default


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
    )


def wait_seconds(text: str | None) -> float:
    """Return how long a caller wants to wait, from `?wait=`; 0 if it does not.

    Raises:
        InvalidRequest: it is not a number of seconds in range.
    """
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_WAIT_S:
        raise InvalidRequest(
            f"wait: {text!r} is not a number of seconds from 0 to {MAX_WAIT_S:g}", field="wait"
        )
    return seconds


def tail_lines(text: str | None) -> int:
    """Return how many log lines a caller wants, from `?tail=`.

    Raises:
        InvalidRequest: it is not a whole number in range.
    """
    if text is None:
        return 100
    if not (re.fullmatch(r"[0-9]{1,9}", text) and 1 <= int(text) <= MAX_TAIL):
        raise InvalidRequest(
            f"tail: {text!r} is not a whole number from 1 to {MAX_TAIL}", field="tail"
        )
    return int(text)


def run_number(text: str | None, current: int) -> int:
    """Return which run of an engine a caller means, from `?run=`.

    Args:
        text: current (the default), previous, or a number.
        current: the number of the current or last run; 0 before the first.

    Raises:
        InvalidRequest: it is none of these.
        NotFound: there has been no such run, or its log is not kept any more.
    """
    match text:
        case None | "current":
            return current
        case "previous":
            number = current - 1
        case _ if re.fullmatch(r"[0-9]{1,9}", text):
            number = int(text)
        case _:
            raise InvalidRequest(
                f"run: {text!r} is neither current, previous nor the number of a run", field="run"
            )
    kept = range(max(1, current - RUNS_KEPT + 1), current + 1)
    if number not in kept:
        has = f"there are logs of {_named(kept)}" if kept else "it has not run yet"
        what = "previous run" if text == "previous" else f"run {number}"
        raise NotFound(f"run: no log of a {what}: {has}; those of the last {RUNS_KEPT} are kept")
    return number


def idempotency_key(text: str | None) -> str | None:
    """Return the value of the header Idempotency-Key, or None where there is none.

    Raises:
        InvalidRequest: it is not 1 to 255 printable ASCII characters.
    """
    if text is not None and not re.fullmatch(r"[!-~](?:[ -~]{0,253}[!-~])?", text):
        raise InvalidRequest(
            "Idempotency-Key: must be 1 to 255 printable ASCII characters, such as a UUID",
            field="Idempotency-Key",
        )
    return text


def last_event_id(text: str | None, pattern: re.Pattern[str]) -> str:
    """Return the value of the header Last-Event-ID, or '' where there is none.

    Args:
        text: the header.
        pattern: of such ids; each number in one fits into 64 bits, as those of a Redis stream do.

    Raises:
        InvalidRequest: no answer of ours has ever had such an id.
    """
    if text and not (pattern.fullmatch(text) and _fit_into_64_bits(text)):
        raise InvalidRequest(
            f"Last-Event-ID: {text[:64]!r} is not the id of an event of this kind of answer",
            field="Last-Event-ID",
        )
    return text or ""


def flag(name: str, text: str | None) -> bool:
    """Return a yes-or-no argument of the query string.

    Raises:
        InvalidRequest: it is neither.
    """
    match (text or "0").lower():
        case "1" | "true":
            return True
        case "0" | "false":
            return False
    raise InvalidRequest(f"{name}: {text!r} is neither 1 nor 0", field=name)


def _fit_into_64_bits(text: str) -> bool:
    return all(int(number) < 2**64 for number in re.findall(r"[0-9]+", text))


def _named(runs: range) -> str:
    return " and ".join([f"run {number}" for number in runs])


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
