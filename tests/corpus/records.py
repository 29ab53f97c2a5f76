"""Deaths as files: a head of `# name: value` lines, then the log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shared.domain.instance import Exit

DEATHS = Path(__file__).parent / "deaths"


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """One end of an engine, as its shim and its log tell it."""

    vllm: str  # its version
    command: str
    ended: Exit
    was_ready: bool  # answered before
    oom_killed: bool  # the kernel says that it killed for want of memory
    cause: str  # the code it should be given
    log: tuple[str, ...]


def write(path: Path, death: Death) -> None:
    """Write a death to a file."""
    head = {
        "vllm": death.vllm,
        "command": death.command,
        "code": death.ended.code,
        "signal": death.ended.signal,
        "was_ready": death.was_ready,
        "oom_killed": death.oom_killed,
        "cause": death.cause,
    }
    lines = [*(f"# {name}: {value}" for name, value in head.items()), *death.log]
    path.write_text("\n".join(lines) + "\n")


def read(path: Path) -> Death:
    """Return the death that a file holds."""
    lines = path.read_text().split("\n")[:-1]
    head = dict(line[2:].split(": ", 1) for line in lines[:7])
    return Death(
        vllm=head["vllm"],
        command=head["command"],
        ended=Exit(code=_number(head["code"]), signal=_number(head["signal"]), at=0.0),
        was_ready=head["was_ready"] == "True",
        oom_killed=head["oom_killed"] == "True",
        cause=head["cause"],
        log=tuple(lines[7:]),
    )


def _number(text: str) -> int | None:
    return None if text == "None" else int(text)
