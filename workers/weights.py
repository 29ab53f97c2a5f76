"""Which models' weights lie on this node: placement prefers a node that need not fetch them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_MOST = 2_000  # names that are told of one node
_HUB = "models--"  # huggingface_hub 1.x, file_download.py repo_folder_name: models--ORG--NAME
_WEIGHTS = frozenset({".safetensors", ".bin", ".gguf", ".pt", ".pth"})
_HALF = ".incomplete"  # what huggingface_hub appends to a file that it still fetches


def held_models(models_dir: Path, hub: Path) -> frozenset[str]:
    """Return the names by which requests would ask for models that are here, whole.

    Args:
        models_dir: MODELS_DIR: a folder of weights in it is asked for by its path below it.
        hub: where huggingface_hub keeps what it has fetched.
    """
    names: set[str] = set()
    for name in (*_in_folder(models_dir), *_in_cache(hub)):
        names.add(name)
        if len(names) == _MOST:
            break
    return frozenset(names)


def _in_folder(models_dir: Path) -> Iterator[str]:
    for folder in _folders(models_dir):
        if _has_weights(folder):
            yield folder.name
            continue
        yield from (
            f"{folder.name}/{inner.name}" for inner in _folders(folder) if _has_weights(inner)
        )


def _in_cache(hub: Path) -> Iterator[str]:
    for folder in _folders(hub):
        if not folder.name.startswith(_HUB):
            continue
        if any(path.suffix == _HALF for path in _files(folder / "blobs")):
            continue
        if any(_has_weights(snapshot) for snapshot in _folders(folder / "snapshots")):
            yield folder.name.removeprefix(_HUB).replace("--", "/")


def _has_weights(folder: Path) -> bool:
    # A link to a blob that is not there does not exist.
    return any(path.suffix in _WEIGHTS and path.exists() for path in _files(folder))


def _folders(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.is_dir())
    return []


def _files(folder: Path) -> list[Path]:
    with suppress(OSError):
        return [path for path in folder.iterdir() if not path.is_dir()]
    return []
