"""What an engine's log says about how far its load is.

Lines as vLLM 0.32 and 0.33 print them; where a line is unknown, nothing changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

STAGES = ("launch", "configure", "initialize", "download", "weights", "compile", "warm-up", "serve")
"""Load stages in their usual order; some are skipped, and a later one never goes back."""

_PERCENT = r"(?P<percent>\d+)%"
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (stage, re.compile(pattern))
    for stage, pattern in (
        ("configure", r"non-default args|Resolved architecture"),
        ("initialize", r"Initializing a V1 LLM engine|init_method|world_size="),
        # huggingface_hub's progress bars
        ("download", rf"(?:Fetching \d+ files|\.safetensors|\.bin|\.gguf): +{_PERCENT}"),
        ("weights", rf"Loading \w+ checkpoint shards: +{_PERCENT}"),
        (
            "compile",
            r"Dynamo bytecode transform|Compiling a graph|for the compilation|torch_compile_cache",
        ),
        ("warm-up", rf"Capturing CUDA graphs?[^%]*: +{_PERCENT}"),
        ("warm-up", r"KV cache size|Capturing CUDA graph|init engine \(profile"),
        ("serve", r"Starting vLLM server on|Application startup complete"),
    )
)


@dataclass(frozen=True, slots=True)
class Load:
    """How far a load is."""

    stage: str = STAGES[0]
    progress: float | None = None  # of the stage, 0 to 1, where the log tells


def progressed(before: Load, after: Load) -> bool:
    """Return whether a load has gone on between two looks at it."""
    return after != before


def follow(load: Load, lines: Iterable[str]) -> Load:
    """Return how far the load is after `lines`."""
    for line in lines:
        found = _stage_of(line)
        if found is None or STAGES.index(found.stage) < STAGES.index(load.stage):
            continue
        load = found
    return load


def _stage_of(line: str) -> Load | None:
    for stage, pattern in _PATTERNS:
        if match := pattern.search(line):
            percent = match.groupdict().get("percent")
            return Load(stage, None if percent is None else min(int(percent), 100) / 100)
    return None
