"""This node's GPUs, by NVML."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

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


def pids_on(uuids: tuple[str, ...]) -> frozenset[int]:
    """Return the pids of processes that hold memory on these devices.

    Raises:
        NVMLError: the driver does not say.
    """
    if not uuids:
        return frozenset()
    with _nvml():
        return frozenset(
            process.pid
            for uuid in uuids
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(
                pynvml.nvmlDeviceGetHandleByUUID(uuid)
            )
        )


def are_released(uuids: tuple[str, ...]) -> bool:
    """Return whether no dead process is still listed on these devices: its memory is not free yet.

    A driver that does not say counts as not released.
    """
    try:
        return all(process_tree.start_time(pid) for pid in pids_on(uuids))
    except pynvml.NVMLError as error:
        log.warning("GPUs %s: the driver does not say who holds them: %s", uuids, error)
        return False


@contextmanager
def _nvml() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    return Gpu(
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        total_mib=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) // _MIB,
    )
