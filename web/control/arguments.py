"""Arguments of the query string, and headers: read, checked, refused with their names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from werkzeug.datastructures import MultiDict

from shared.domain.instance import Status
from shared.errors import InvalidRequest, NotFound
from shared.store.history import RUNS_KEPT
from shared.store.listing import Query

MAX_WAIT_S = 3_600.0
MAX_TAIL = 5_000
MAX_PAGE = 1_000


def only(args: MultiDict[str, str], *names: str) -> None:
    """Return if the query string has none but these arguments, each once.

    What is misspelt must not be passed over: `?dryrun=1` is no dry run, `?state=` picks nothing.

    Raises:
        InvalidRequest: it has others, or one twice.
    """
    for name in args:
        if name not in names:
            known = ", ".join(names)
            raise InvalidRequest(f"{name}: unknown argument; there are {known}", field=name)
        if len(args.getlist(name)) > 1:
            raise InvalidRequest(f"{name}: given twice", field=name)


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


def list_query(args: Mapping[str, str]) -> Query:
    """Return which instances a list is to have, from `?node= ?model= ?status= ?all=`.

    Raises:
        InvalidRequest: the status is none, or a flag is neither 1 nor 0.
    """
    status = args.get("status") or None
    if status is not None and status not in frozenset(Status):
        raise InvalidRequest(
            f"status: {status!r} is none; they are {', '.join(Status)}", field="status"
        )
    return Query(
        node=args.get("node") or None,
        model=args.get("model") or None,
        status=status,
        with_ended=flag("all", args.get("all")),
    )


def page_limit(text: str | None) -> int | None:
    """Return how many instances a caller wants at once, from `?limit=`; None: all.

    Raises:
        InvalidRequest: it is not a whole number in range.
    """
    if text is None:
        return None
    if not (re.fullmatch(r"[0-9]{1,9}", text) and 1 <= int(text) <= MAX_PAGE):
        raise InvalidRequest(
            f"limit: {text!r} is not a whole number from 1 to {MAX_PAGE}", field="limit"
        )
    return int(text)


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
