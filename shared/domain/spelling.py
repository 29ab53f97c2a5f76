"""The names of vLLM's start parameters, and the many ways to write one.

vLLM takes `_` for `-`, any unambiguous beginning of a name (argparse), short options (`-tp`), a
`no-` form of what is on or off, and keys of a JSON value after a dot (`hf_overrides.a.b`, with `+`
to append). Here all of them become one: the full name, so that what is checked is what is sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from shared.domain.vllm_flags import ALIASES, BOOLEANS, VALUES
from shared.errors import InvalidRequest

_NAME = re.compile(r"(?:-[A-Za-z]+|(?:--)?[A-Za-z][A-Za-z0-9_-]*)(?:\.[A-Za-z0-9_-]+)*\+?")
_KEYS = re.compile(r"[.+]")  # where those of a JSON value begin
_SHORT: Mapping[str, str] = {"-O": "optimization_level"} | {
    option: name for option, name in ALIASES.items() if not option.startswith("--")
}


def normal_name(name: str) -> str:
    """Return a parameter's name without leading dashes and with `_` for `-`.

    What follows a dot is a key of the parameter's JSON value, and stays as it is.
    """
    stem, keys = _split(name.removeprefix("--"))
    return stem.replace("-", "_") + keys


KNOWN: Mapping[str, str] = {
    **{
        option.removeprefix("--").replace("-", "_"): name
        for option, name in ALIASES.items()
        if option.startswith("--")
    },
    **{name: name for name in VALUES | BOOLEANS},
    **{f"no_{name}": f"no_{name}" for name in BOOLEANS},
}
"""Every long option of vLLM's parser in normal form, and the name of what it sets."""


def full_name(written: str, where: str) -> str:
    """Return the full name of the parameter that vLLM takes `written` for.

    A name that is no beginning of one that is known stays as it is: another vLLM may know it.

    Raises:
        InvalidRequest: it cannot be a flag, or is the beginning of several.
    """
    if not _NAME.fullmatch(written):
        raise InvalidRequest(
            f"{where}: not the name of a vLLM parameter; names look like max_model_len", field=where
        )
    stem, keys = _split(written)
    if stem.startswith("-") and not stem.startswith("--"):
        if stem not in _SHORT:
            raise InvalidRequest(
                f"{where}: not the name of a vLLM parameter; its short ones are "
                f"{', '.join(_SHORT)}",
                field=where,
            )
        return _SHORT[stem] + keys
    return _completed(normal_name(stem), where) + keys


def subject(name: str) -> str:
    """Return the parameter that a full name is about: no keys of its value, no `no_`."""
    return _split(name)[0].removeprefix("no_")


def keys_of(name: str) -> list[str]:
    """Return the keys of the JSON value that a full name goes on with; empty without a dot."""
    return [key for key in _split(name)[1].removesuffix("+").split(".") if key]


def _split(name: str) -> tuple[str, str]:
    at = _KEYS.search(name)
    return (name[: at.start()], name[at.start() :]) if at else (name, "")


def _completed(stem: str, where: str) -> str:
    if stem in KNOWN:
        return KNOWN[stem]
    meant = sorted({name for option, name in KNOWN.items() if option.startswith(stem)})
    if len(meant) > 1:
        shown = ", ".join(meant[:5]) + (" ..." if len(meant) > 5 else "")  # noqa: PLR2004
        raise InvalidRequest(
            f"{where}: could mean several parameters: {shown}; write the name in full", field=where
        )
    if meant:
        return meant[0]
    if stem.startswith("no_") and stem != "no_":
        return f"no_{_completed(stem.removeprefix('no_'), where)}"
    return stem
