"""What an engine's log says about how far its load is.

Lines as vLLM 0.32 and 0.33 print them; where a line is unknown, nothing changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

STAGES = ("launch", "configure", "initialize", "download", "weights", "compile", "warm-up", "ready")
"""Load stages in their usual order; some are skipped, and a later one never goes back."""

_LINE_CHARS = 300  # looked at: callers may have an engine log what takes a pattern long
_BAR = r"[^%:]{0,80}: {1,9}(?P<percent>\d+)%"
# tqdm's own bar has a picture in the middle, vLLM's for weights says Completed
_COUNT = r"(?: Completed \||\|[^|]{0,200}\|) (?P<count>[\d.]+[kKMGT]?i?B?/[\d.]+[kKMGT]?i?B?)"
_WARM_UPS = (
    r"Capturing CUDA graphs?|DeepGEMM warmup|JIT kernel warmup \([^)]*\)|Compiling CuTeDSL kernels"
    r"|Pre-compiling fp8 BMM kernel"
)
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (stage, re.compile(pattern))
    for stage, pattern in (
        ("configure", r"non-default args|Resolved architecture"),
        ("initialize", r"Initializing a V1 LLM engine|init_method|world_size="),
        # huggingface_hub's bars; vLLM 0.32 hides them: see workers.downloads
        ("download", rf"(?:Fetching \d+ files|\.safetensors|\.bin|\.gguf){_BAR}(?:{_COUNT})?"),
        ("download", r"Time spent downloading weights"),
        # model_executor/model_loader/weight_utils.py
        ("weights", rf"[Ll]oading [\w -]{{0,40}}(?:shards|loader|[Ss]treamer){_BAR}(?:{_COUNT})?"),
        ("weights", r"Loading weights took|Model loading took|Prefetching checkpoint files"),
        # compilation/*.py
        (
            "compile",
            (
                r"Starting torch\.compile|Dynamo bytecode transform|Compiling a graph"
                r"|for the compilation|torch_compile_cache|Directly load|torch\.compile took"
                r"|Compile and warming up model"
            ),
        ),
        # v1/worker/gpu_model_runner.py, v1/core/kv_cache_utils.py, model_executor/warmup/*.py
        ("warm-up", rf"(?:{_WARM_UPS}){_BAR}(?:{_COUNT})?"),
        (
            "warm-up",
            (
                rf"KV cache size:|Available KV cache memory|{_WARM_UPS}|CUDA graph memory"
                r"|Graph capturing finished|init engine \(profile"
                r"|JIT kernel warmup (?:start|finish)"
                r"|(?:Warming up|Warmed|[Aa]utotuning) \w|warmup run took"
            ),
        ),
        ("ready", r"Starting vLLM server on|Application startup complete"),
    )
)


@dataclass(frozen=True, slots=True)
class Load:
    """How far a load is."""

    stage: str = STAGES[0]
    progress: float | None = None  # of the stage, 0 to 1, where the log tells
    detail: str = ""  # what of the stage is done, where the log tells: 2/4
    steps: int = 0  # known lines of the stage that tell no more than that it goes on
    moved: int = 0  # bytes that its processes have read and written, in MOVED_STEP


_MIB = 2**20
_GIB = 2**30
MOVED_STEP = 64 * _MIB
"""Bytes: a second's worth for an engine that loads; one that hangs never moves so many."""


def progressed(before: Load, after: Load) -> bool:
    """Return whether a load has gone on between two looks at it.

    It has if it reached another stage, another percentage or count, said another known line, or
    read or wrote MOVED_STEP bytes: vLLM says nothing while it downloads, nor while it reads one
    large file.
    """
    return after != before


def follow(load: Load, lines: Iterable[str]) -> Load:
    """Return how far the load is after `lines`."""
    for line in lines:
        if load.stage == STAGES[-1]:  # nothing comes after: what it says now is of no interest
            return load
        found = _stage_of(line[:_LINE_CHARS])
        if found is None or STAGES.index(found.stage) < STAGES.index(load.stage):
            continue
        if found.stage != load.stage:
            load = replace(found, moved=load.moved)
        elif found.progress is None:
            load = replace(load, steps=load.steps + 1)
        else:
            load = replace(load, progress=found.progress, detail=found.detail)
    return load


def with_moved(load: Load, moved: int) -> Load:
    """Return the load of processes that have read and written `moved` bytes so far."""
    return replace(load, moved=max(load.moved, moved - moved % MOVED_STEP))


def with_downloaded(load: Load, downloaded: int) -> Load:
    """Return the load of an engine whose model has come in so many bytes so far, since it began."""
    if downloaded < _MIB or STAGES.index(load.stage) > STAGES.index("download"):
        return load
    detail = f"{downloaded / _GIB:.1f} GiB" if downloaded >= _GIB else f"{downloaded // _MIB} MiB"
    told = load if load.stage == "download" else Load("download", moved=load.moved)
    return replace(told, detail=detail) if told.progress is None else told


def _stage_of(line: str) -> Load | None:
    for stage, pattern in _PATTERNS:
        if match := pattern.search(line):
            told = match.groupdict()
            if told.get("percent") is None:
                return Load(stage)
            return Load(stage, min(int(told["percent"]), 100) / 100, told.get("count") or "")
    return None
