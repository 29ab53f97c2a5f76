"""What the installed vLLM's own parser says, asked in the engine environment.

`python -m tests.engine_flags > shared/domain/vllm_flags.py` after an upgrade of vLLM.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

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


class Oracle:
    """vLLM's parser, in a process that lives for all questions: importing vLLM takes seconds."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [PYTHON, "-I", _ORACLE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def installed(self) -> Any:
        """Return the flags of the installed vLLM; see `oracle.py`."""
        return self._ask(None)

    def meanings(self, lines: Iterable[Sequence[str]]) -> list[dict[str, object] | None]:
        """Return, for each command line after `vllm serve`, what vLLM's parser sets by it.

        None where it refuses the line.
        """
        return [self._ask(list(line)) for line in lines]

    def _ask(self, question: object) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{json.dumps(question)}\n")
        stdin.flush()
        answer = stdout.readline()
        assert answer, "the oracle has ended: run it by hand to see why"
        return json.loads(answer)


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
