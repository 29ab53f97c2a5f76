"""This node's GPUs, by NVML."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pynvml

from shared.domain.node import Gpu

_MIB = 2**20


def list_gpus() -> tuple[Gpu, ...]:
    """Return this node's devices, by index; empty where there is no NVIDIA driver."""
    try:
        with _nvml():
            return tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return ()


def pids_on(uuids: tuple[str, ...]) -> frozenset[int]:
    """Return the pids of processes that hold memory on these devices."""
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
