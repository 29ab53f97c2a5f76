"""This node's GPUs, by NVML."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pynvml

from shared.domain.node import Gpu
from workers import process_tree

_MIB = 2**20
_NO_DRIVER = frozenset(
    {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_NO_PERMISSION,
    }
)

log = logging.getLogger(__name__)


def list_gpus() -> tuple[Gpu, ...]:
    """Return this node's devices, by index; empty where there is no NVIDIA driver.

    Raises:
        NVMLError: there is a driver, and it does not answer: not a node without GPUs.
    """
    try:
        with _nvml():
            return tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError as error:
        if error.value in _NO_DRIVER:
            return ()
        raise


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that the driver lists as holding memory of a device."""

    uuid: str  # of the device
    pid: int
    mib: int | None  # None: the driver does not say how much


def holders_of(uuids: tuple[str, ...]) -> list[Holder]:
    """Return who holds memory on these devices.

    Raises:
        NVMLError: the driver does not say.
    """
    if not uuids:
        return []
    with _nvml():
        return [
            Holder(uuid, process.pid, _mib(process.usedGpuMemory))
            for uuid in uuids
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(
                pynvml.nvmlDeviceGetHandleByUUID(uuid)
            )
        ]


def why_in_use(uuids: tuple[str, ...]) -> str:
    """Return a line that says who else holds memory on these devices; "" if nobody does.

    A driver that does not say counts as nobody: the engine will say it in its own words.
    """
    try:
        return ", ".join(_told(holder) for holder in holders_of(uuids))
    except pynvml.NVMLError as error:
        log.warning("GPUs %s: the driver does not say who holds them: %s", uuids, error)
        return ""


def why_not_released(uuids: tuple[str, ...]) -> str:
    """Return a line that says which dead processes the driver still lists; "" if none.

    Their memory is not free yet. A driver that does not say counts as not released.
    """
    try:
        dead = [one for one in holders_of(uuids) if process_tree.start_time(one.pid) is None]
    except pynvml.NVMLError as error:
        log.warning("GPUs %s: the driver does not say who holds them: %s", uuids, error)
        return f"GPUs {', '.join(uuids)}: the driver does not say who holds them ({error})"
    return ", ".join(_told(holder) for holder in dead)


@contextmanager
def _nvml() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _told(holder: Holder) -> str:
    much = "memory" if holder.mib is None else f"{holder.mib} MiB"
    name = process_tree.name_of(holder.pid)
    return f"{much} of {holder.uuid} is held by pid {holder.pid} ({name})"


def _mib(used: int | None) -> int | None:
    return None if used is None else used // _MIB


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    return Gpu(
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        total_mib=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) // _MIB,
    )
