"""What is done to each target, and how the synthetic engine behaves meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MIB = 1024 * 1024
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"

_TOKEN_GAP_US = 10_000  # 100 tokens/s
_USUAL: Mapping[str, int] = {
    "tokens": 128, "gap_us": _TOKEN_GAP_US, "first_us": 0, "json_delay_us": 0, "big_bytes": 8 * MIB,
}  # fmt: skip
_SILENT_US = 3_000_000  # longer than anybody should take to notice that the caller has gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One kind of load."""

    name: str
    says: str  # for the report
    load: Mapping[str, object]  # the load generator's options
    engine: Mapping[str, int] = field(default_factory=dict)  # where it differs from usual
    path: str = CHAT
    sample_memory_s: float | None = None  # how often; None: memory is not looked at
    most_rounds: int = 100  # the slow ones are measured less often
    targets: frozenset[str] | None = None  # None: all that were asked for

    @property
    def engine_query(self) -> str:
        """Everything the engine must be told, whatever it did before."""
        return "&".join(f"{name}={value}" for name, value in {**_USUAL, **self.engine}.items())


def _json(connections: int) -> dict[str, object]:
    return {"mode": "json", "connections": connections, "seconds": 1.5, "warmup": 0.2}


def _large(mode: str, *, seconds: float = 1, **more: object) -> dict[str, object]:
    return {"mode": mode, "connections": 4, "seconds": seconds, "warmup": 0, **more}


def _gone(**more: object) -> dict[str, object]:
    return {"mode": "gone", "trials": 3, "after_ms": 100, **more}


SCALE_TARGETS = frozenset({"one_process", "two_processes"})

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(name="json16", says="small JSON, 16 connections", load=_json(16)),
    Scenario(name="json64", says="small JSON, 64 connections", load=_json(64)),
    Scenario(name="json1", says="small JSON, one connection", load=_json(1)),
    Scenario(
        name="sse16",
        says="16 SSE streams of 100 tokens/s",
        load={"mode": "sse", "connections": 16, "ramp_ms": 200, "warmup": 0.3, "seconds": 2.2},
    ),
    Scenario(
        name="sse512",
        says="512 SSE streams of 100 tokens/s",
        load={"mode": "sse", "connections": 512, "ramp_ms": 1200, "warmup": 1.4, "seconds": 3},
        sample_memory_s=0.25,
    ),
    Scenario(
        name="up32m",
        says="32 MiB uploads, 4 connections",
        load=_large("upload", body_bytes=32 * MIB),
        path=EMBEDDINGS,
        sample_memory_s=0.02,
        most_rounds=2,
    ),
    Scenario(
        name="down128m",
        says="128 MiB downloads, 4 connections",
        load=_large("download", big_bytes=128 * MIB),
        engine={"big_bytes": 128 * MIB},
        sample_memory_s=0.02,
        most_rounds=2,
    ),
    Scenario(
        name="up1m",
        says="1 MiB uploads, 4 connections",
        load=_large("upload", seconds=1.5),
        path=EMBEDDINGS,
    ),
    Scenario(
        name="down8m",
        says="8 MiB downloads, 4 connections",
        load=_large("download", seconds=1.5),
    ),
    Scenario(
        name="gone_flowing",
        says="the caller leaves while tokens flow",
        load=_gone(stream=1),
        most_rounds=3,
    ),
    Scenario(
        name="gone_prefill",
        says="the caller leaves before the first token",
        load=_gone(stream=1),
        engine={"first_us": _SILENT_US},
        most_rounds=3,
    ),
    Scenario(
        name="gone_json",
        says="the caller of an answer that is not streamed leaves",
        load=_gone(stream=0),
        engine={"json_delay_us": _SILENT_US},
        most_rounds=3,
    ),
    Scenario(
        name="scale_json",
        says="small JSON, 64 connections, 1 and 2 web processes on all cores",
        load=_json(64),
        targets=SCALE_TARGETS,
    ),
)

BY_NAME: Mapping[str, Scenario] = {scenario.name: scenario for scenario in SCENARIOS}
