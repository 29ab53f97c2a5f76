"""Which build of vLLM fits this machine."""

import subprocess
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")  # there while the kernel driver is loaded
LISTING_TIMEOUT_S = (
    30.0  # without a persistence daemon nvidia-smi wakes each GPU first, seconds apiece
)


class Flavor(StrEnum):
    """A build of vLLM."""

    CPU = "cpu"
    CUDA = "cuda"


def choose_flavor(asked: str, sees_gpu: Callable[[], bool]) -> Flavor:
    """Return the flavor that was asked for; only for `auto`, look for a GPU and decide."""
    if asked != "auto":
        return Flavor(asked)
    return Flavor.CUDA if sees_gpu() else Flavor.CPU


def gpu_is_here() -> bool:
    """Tell whether an NVIDIA driver is loaded or, as under WSL, nvidia-smi alone lists a GPU."""
    return NVIDIA_DRIVER.exists() or lists_gpu(_nvidia_smi_listing())


def lists_gpu(listing: str) -> bool:
    """Tell whether the output of `nvidia-smi -L` names a GPU."""
    return any(line.startswith("GPU ") for line in listing.splitlines())


def _nvidia_smi_listing() -> str:
    try:
        finished = subprocess.run(
            ["nvidia-smi", "-L"],
            capture_output=True,
            text=True,
            timeout=LISTING_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):  # not installed, or hung on a broken driver
        return ""
    return finished.stdout if finished.returncode == 0 else ""
