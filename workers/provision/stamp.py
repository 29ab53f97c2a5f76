"""The mark of a whole engine environment: written last, removed first."""

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from workers.provision.plan import EnginePlan

FILE_NAME = "fleet-stamp.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What an environment was made from; another stamp means it has to be made anew."""

    requirements: str  # hash of the lines that pip reads: a changed comment costs no rebuild
    python: str  # as in cpython-311: a new patch release keeps an environment usable
    flavor: str
    path: str  # scripts name their Python by its full path, so a copied environment is none

    @classmethod
    def of(cls, plan: EnginePlan, environment: Path) -> Self:
        """Return the stamp that `environment` has once it was made by `plan` and this Python."""
        content = "\n".join([*plan.requirements, plan.meta_project or ""])
        return cls(
            requirements=hashlib.sha256(content.encode()).hexdigest(),
            python=str(sys.implementation.cache_tag),
            flavor=plan.flavor,
            path=str(environment),
        )

    def is_on(self, environment: Path) -> bool:
        """Tell whether `environment` was made to its end, and from just this."""
        if not (environment / "bin" / "python").is_file():  # a link to a Python that is gone
            return False
        try:
            found = json.loads((environment / FILE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(found == asdict(self))

    def put_on(self, environment: Path) -> None:
        """Mark `environment` as whole, in one step."""
        part = environment / f"{FILE_NAME}.part"
        part.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        part.replace(environment / FILE_NAME)


def remove_stamp(environment: Path) -> None:
    """Mark `environment` as not whole, before anything in it is touched."""
    (environment / FILE_NAME).unlink(missing_ok=True)
