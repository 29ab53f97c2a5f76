"""Where things go, and what the caller's environment says about it: the only reader of it here."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from workers.provision.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "configs" / "engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Folders that are written to, and the words and variables every command gets."""

    engines: Path  # one folder for each engine environment, and the link `default`
    models: Path  # one folder for each demo model
    pip_words: tuple[str, ...]  # from ENGINE_PIP_ARGS: a mirror, a proxy, a certificate
    environ: Mapping[str, str]

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Return the places named by `environ`; a relative MODELS_DIR counts from the repository.

        Raises:
            UsageError: ENGINE_PIP_ARGS has a quote that is not closed.
        """
        dotenv = ROOT / ".env"
        asked = environ.get("ENGINE_PIP_ARGS") or from_dotenv("ENGINE_PIP_ARGS", dotenv)
        try:
            pip_words = tuple(shlex.split(asked))
        except ValueError as error:
            raise UsageError(f"ENGINE_PIP_ARGS cannot be split into words: {error}") from error
        models = environ.get("MODELS_DIR") or from_dotenv("MODELS_DIR", dotenv)
        return cls(
            engines=ROOT / ".engines",
            models=ROOT / Path(models or ".models").expanduser(),
            pip_words=pip_words,
            environ=environ,
        )

    @property
    def default_engine(self) -> Path:
        """The link to the engine environment that was asked for last."""
        return self.engines / "default"


def from_dotenv(name: str, file: Path) -> str:
    """Return the value that a .env file gives `name`, '' if none.

    The fleet reads it with python-dotenv; this runs before that is installed, and knows as much of
    the format as a path needs.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ""
    values = [line.partition("=")[2] for line in lines if re.match(rf"(export )?{name} *=", line)]
    return values[-1].partition(" #")[0].strip().strip("'\"") if values else ""


def shown(path: Path) -> str:
    """Return `path` as a person in the current folder would type it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
