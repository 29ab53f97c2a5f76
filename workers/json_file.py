"""Small JSON files that are replaced whole, so that no reader ever sees half of one.

Standard library only: the shim runs on it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read(path: Path) -> dict[str, Any] | None:
    """Return the object in `path`; None if there is no such file, or no JSON object in it."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None  # ValueError: torn by a machine that lost power
    return found if isinstance(found, dict) else None


def write(path: Path, value: Mapping[str, object]) -> None:
    """Replace `path`: whole and on disk, or not at all. Only its owner may read it.

    Raises:
        OSError: the disk is full, or the folder is gone; the file is as it was.
    """
    draft = path.with_name(f"{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
