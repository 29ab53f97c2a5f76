"""What we are compared with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from shared.settings import ROOT

FOLDER = ROOT / ".bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The programs of the peers."""

    nginx: Path
    vllm_router: Path
    litellm: Path


def provide(names: Collection[str]) -> Installed:
    """Return the programs of the peers, installed where `names` asks for them."""
    return Installed(
        nginx=FOLDER / "nginx-try/usr/sbin/nginx",
        vllm_router=FOLDER / "router-try/bin/vllm-router",
        litellm=FOLDER / "litellm-try/bin/litellm",
    )
