"""`python -m tests.corpus [NAME …]`: make real vLLM fail and keep what it says.

Needs the engine environment and the demo models; half a minute a fault; the memory cgroup needs
root. Without names, all faults.
"""

from __future__ import annotations

import sys

from tests.corpus.faults import FAULTS
from tests.corpus.provoke import provoke
from tests.corpus.records import DEATHS, write


def main(names: list[str]) -> None:
    """Provoke the faults and write their logs."""
    for name in names or FAULTS:
        death = provoke(FAULTS[name])
        write(DEATHS / f"{name}.log", death)
        print(f"{name}: {death.ended}, {len(death.log)} lines")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
