"""This node's GPUs, by NVML; or simulated ones, which nobody asks a driver about."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pynvml

from shared.domain.node import SIMULATED, Gpu, GpuMemory, real
from shared.domain.wanted import WHOLE
from shared.errors import SettingsError
from workers import process_tree

_MIB = 2**20
_DRIVERS_OWN = 0.05  # of a device's memory, at most: what a driver keeps for itself
_NO_DRIVER = frozenset(
    {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_NO_PERMISSION,
    }
)
_NO_MIG = frozenset(
    {pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND}  # device; old driver
)

log = logging.getLogger(__name__)


def gpus_of_node(name: str, fake: Sequence[int]) -> tuple[Gpu, ...]:
    """Return the devices of the node `name`, by index.

    Args:
        name: of the node; in the UUIDs of simulated devices.
        fake: MiB of each simulated one; empty: the real ones are listed.

    Raises:
        NVMLError: there is a driver, and it does not answer: not a node without GPUs.
        SettingsError: GPUs are to be simulated beside real ones.
    """
    found = list_gpus()
    if fake and found:
        raise SettingsError(
            [f"NODE_FAKE_GPUS: is for machines without GPUs; this one has {len(found)}"]
        )
    return found or tuple(
        Gpu(
            index=index,
            uuid=f"{SIMULATED}{name}-{index}",
            name=f"simulated, {mib / 1024:g} GiB",
            total_mib=mib,
            simulated=True,
        )
        for index, mib in enumerate(fake)
    )


def list_gpus() -> tuple[Gpu, ...]:
    """Return this machine's devices, by index; empty where there is no NVIDIA driver.

    Of a GPU in MIG mode its MIG devices are listed in its place, for it runs nothing itself.

    Raises:
        NVMLError: there is a driver, and it does not answer: not a node without GPUs.
    """
    try:
        with _nvml():
            return tuple(_gpu(index, handle) for index, handle in enumerate(_devices()))
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


def holders_of(uuids: Sequence[str]) -> list[Holder]:
    """Return who holds memory on these devices.

    Raises:
        NVMLError: the driver does not say.
    """
    devices = real(uuids)
    if not devices:
        return []
    with _nvml():
        return [holder for uuid in devices for holder in _holders(uuid)]


def memory_of(
    gpus: Sequence[Gpu], own_pids: Collection[int], expected: Mapping[str, int]
) -> dict[str, GpuMemory]:
    """Return what is free on these devices and what others hold of them, by UUID.

    Of a simulated one that is what our engines leave. Where the driver lists none of our processes
    although they run, as it may in a container, what is expected of them counts as theirs.

    Args:
        gpus: of this node.
        own_pids: all processes of our engines.
        expected: UUID → MiB that our engines on it have been given; only where some run.

    Raises:
        NVMLError: the driver does not say.
    """
    told = {
        gpu.uuid: GpuMemory(max(0, gpu.total_mib - expected.get(gpu.uuid, 0)))
        for gpu in gpus
        if gpu.simulated
    }
    devices = real(gpu.uuid for gpu in gpus)
    if devices:
        with _nvml():
            told |= {uuid: _memory(uuid, own_pids, expected.get(uuid)) for uuid in devices}
    return told


def why_no_room(shares: Mapping[str, int]) -> str:
    """Return a line that says who holds memory that an engine is to have; "" if there is room.

    An empty device always has room: where its engine wants more than there is, it says so in its
    own words. A driver that does not say counts as empty; one that lists nobody, as it may in a
    container, does not, where a good part of the memory is not free.

    Args:
        shares: UUID → thousandths of its memory that the engine is to have.
    """
    devices = real(shares)
    if not devices:
        return ""
    try:
        with _nvml():
            lacking = (_why_no_room(uuid, shares[uuid]) for uuid in devices)
            return "; ".join(why for why in lacking if why)
    except pynvml.NVMLError as error:
        log.warning("GPUs %s: the driver does not say who holds them: %s", devices, error)
        return ""


def why_not_released(uuids: Sequence[str]) -> str:
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


def _holders(uuid: str) -> list[Holder]:
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    return [Holder(uuid, process.pid, _mib(process.usedGpuMemory)) for process in running]


def _memory(uuid: str, own_pids: Collection[int], expected_mib: int | None) -> GpuMemory:
    info = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(uuid))
    free, used = int(info.free) // _MIB, (int(info.total) - int(info.free)) // _MIB
    holders = _holders(uuid)
    own = [holder for holder in holders if holder.pid in own_pids]
    if expected_mib and not own:
        return GpuMemory(free, max(0, used - expected_mib))
    foreign = [holder.mib for holder in holders if holder.pid not in own_pids]
    if None in foreign:
        return GpuMemory(free, max(0, used - sum(holder.mib or 0 for holder in own)))
    return GpuMemory(free, sum(mib or 0 for mib in foreign))


def _why_no_room(uuid: str, thousandths: int) -> str:
    holders = _holders(uuid)
    info = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(uuid))
    total, free = int(info.total) // _MIB, int(info.free) // _MIB
    needed = total * thousandths // WHOLE
    is_empty = not holders and total - free < total * _DRIVERS_OWN
    if needed <= free or is_empty:
        return ""
    held = ", ".join(_told(holder) for holder in holders) or "the driver does not say who holds it"
    return f"{needed} MiB of {uuid} needed and {free} MiB free: {held}"


def _told(holder: Holder) -> str:
    much = "memory" if holder.mib is None else f"{holder.mib} MiB"
    name = process_tree.name_of(holder.pid)
    return f"{much} of {holder.uuid} is held by pid {holder.pid} ({name})"


def _mib(used: int | None) -> int | None:
    return None if used is None else used // _MIB


def _devices() -> Iterator[object]:
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        if _is_divided(handle):
            yield from _parts(handle)
        else:
            yield handle


def _is_divided(handle: object) -> bool:
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError as error:
        if error.value in _NO_MIG:
            return False
        raise
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


def _parts(handle: object) -> Iterator[object]:
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            yield pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except pynvml.NVMLError as error:
            if error.value != pynvml.NVML_ERROR_NOT_FOUND:  # none was made there
                raise


def _gpu(index: int, handle: object) -> Gpu:
    return Gpu(
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        total_mib=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) // _MIB,
    )
