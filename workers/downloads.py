"""How much of a model has come from the hub: vLLM's log is silent about it.

vLLM 0.32 hides huggingface_hub's progress bars (model_executor/model_loader/weight_utils.py,
DisabledTqdm), so the files themselves are looked at. What is still to come is not on the disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_DIRECTORY_FLAG = "--download-dir="


def hub_folder(command: Sequence[str], env: Mapping[str, str]) -> Path | None:
    """Return where huggingface_hub keeps the files of the model that `command` serves.

    As huggingface_hub 1.x has it: constants.py, file_download.py repo_folder_name. None for a
    model that is a folder of the node.
    """
    if "serve" not in command[:-1]:
        return None
    model = command[command.index("serve") + 1]
    if model.startswith(("/", ".")) or "://" in model:
        return None
    return hub_cache(command, env) / f"models--{model.replace('/', '--')}"


def hub_cache(command: Sequence[str], env: Mapping[str, str]) -> Path:
    """Return where huggingface_hub keeps what it fetches for an engine."""
    for word in command:
        if word.startswith(_DIRECTORY_FLAG):
            return Path(word.removeprefix(_DIRECTORY_FLAG))
    if cache := env.get("HF_HUB_CACHE"):
        return Path(cache)
    if home := env.get("HF_HOME"):
        return Path(home) / "hub"
    caches = env.get("XDG_CACHE_HOME") or f"{env.get('HOME', '')}/.cache"
    return Path(caches) / "huggingface/hub"


def downloaded(folder: Path) -> int:
    """Return how many bytes of the model are there, half files too."""
    total = 0
    with suppress(OSError):
        for path in (folder / "blobs").iterdir():
            with suppress(OSError):  # renamed since: it is complete now
                total += path.stat().st_size
    return total
