"""A stand-in for NVIDIA's driver: devices, and who holds memory on them, from $STANDIN_DRIVER.

Found before the real `pynvml` on PYTHONPATH; has what `workers` calls, and nothing else.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

NVML_ERROR_LIBRARY_NOT_FOUND = 12
NVML_ERROR_DRIVER_NOT_LOADED = 9
NVML_ERROR_NO_PERMISSION = 4
NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_FUNCTION_NOT_FOUND = 13
NVML_ERROR_NOT_FOUND = 6
NVML_DEVICE_MIG_ENABLE = 1
_MIB = 2**20
_TOTAL = 80_000 * _MIB


class NVMLError(Exception):
    """Never raised here."""

    value = 0


class Holder(NamedTuple):
    """A process with memory on a device."""

    pid: int
    usedGpuMemory: int = 20_000 * _MIB  # noqa: N815 - NVML's name


class Memory(NamedTuple):
    """How much a device has."""

    total: int
    used: int
    free: int


def nvmlInit() -> None:  # noqa: N802
    """Do nothing."""


def nvmlShutdown() -> None:  # noqa: N802
    """Do nothing."""


def nvmlDeviceGetCount() -> int:  # noqa: N802
    """Return how many devices there are."""
    return int(_said()["count"])


def nvmlDeviceGetHandleByIndex(index: int) -> str:  # noqa: N802
    """Return a device."""
    return f"GPU-{index}"


def nvmlDeviceGetHandleByUUID(uuid: str) -> str:  # noqa: N802
    """Return a device."""
    return uuid


def nvmlDeviceGetUUID(handle: str) -> str:  # noqa: N802
    """Return its UUID."""
    return handle


def nvmlDeviceGetName(handle: str) -> str:  # noqa: ARG001, N802
    """Return what it is."""
    return "stand-in"


def nvmlDeviceGetMigMode(handle: str) -> list[int]:  # noqa: ARG001, N802
    """Return that it is not divided."""
    return [0, 0]


def nvmlDeviceGetMemoryInfo(handle: str) -> Memory:  # noqa: N802
    """Return its memory."""
    used = 20_000 * _MIB * len(nvmlDeviceGetComputeRunningProcesses(handle))
    return Memory(total=_TOTAL, used=used, free=_TOTAL - used)


def nvmlDeviceGetComputeRunningProcesses(handle: str) -> list[Holder]:  # noqa: N802
    """Return who holds memory on it."""
    return [Holder(pid) for pid in _said()["holders"].get(handle, [])]


def _said() -> dict[str, Any]:
    said: dict[str, Any] = json.loads(Path(os.environ["STANDIN_DRIVER"]).read_text())
    return said
