"""What the installed vLLM's own parser says, asked in the engine environment.

`python -m tests.engine_flags > shared/domain/vllm_flags.py` after an upgrade of vLLM.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from shared.settings import ROOT

PYTHON = ROOT / ".engines/default/bin/python"
_ORACLE = Path(__file__).with_name("oracle.py")

_SOURCE = '''"""The flags of `vllm serve`, as vLLM {version}'s own parser has them.

Written by `python -m tests.engine_flags`; a test compares it with the installed vLLM.
"""

VALUES = frozenset(
    {{
{values}
    }}
)
"""Flags without a `no-` form, in normal form: most take a value."""

BOOLEANS = frozenset(
    {{
{booleans}
    }}
)
"""Flags with a `no-` form."""

OBJECTS = frozenset(
    {{
{objects}
    }}
)
"""Those of VALUES whose value may be a JSON object."""

ALIASES = {{
{aliases}
}}
"""Other options that set the same, as they are typed."""
'''


def installed() -> Any:
    """Return the flags of the installed vLLM; see `oracle.py`."""
    return json.loads(_ask("flags", ""))


def meanings(lines: Iterable[Sequence[str]]) -> list[dict[str, object] | None]:
    """Return, for each command line after `vllm serve`, what vLLM's parser sets by it.

    None where it refuses the line. One process for all: importing vLLM takes seconds.
    """
    text = "".join(f"{json.dumps(list(line))}\n" for line in lines)
    return [json.loads(answer) for answer in _ask("parse", text).splitlines()]


def source(flags: Any) -> str:
    """Return the source of `shared/domain/vllm_flags.py`."""
    dests = set(flags["options"].values())
    long = {dest: f"--{dest.replace('_', '-')}" for dest in dests}
    aliases = {
        option: dest
        for option, dest in flags["options"].items()
        if option != long[dest] and not option.startswith("--no-")
    }
    booleans = set(flags["booleans"])
    return _SOURCE.format(
        version=flags["version"],
        values=_block(dests - booleans),
        booleans=_block(booleans),
        objects=_block(flags["objects"]),
        aliases="\n".join(f'    "{option}": "{dest}",' for option, dest in sorted(aliases.items())),
    )


def _block(names: Iterable[str]) -> str:
    return "\n".join(f'        "{name}",' for name in sorted(names))


def _ask(what: str, text: str) -> str:
    done = subprocess.run(
        [PYTHON, "-I", _ORACLE, what],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        timeout=110,
    )
    return done.stdout
