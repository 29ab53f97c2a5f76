"""NVML's answers, by a stand-in of its few functions: no machine here has a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from shared.domain.node import Gpu
from workers.gpus import Holder, holders_of, list_gpus, why_in_use, why_not_released

UUIDS = ("GPU-a", "GPU-b")
DEAD = 2**22 + 1  # above the kernel's largest pid
UNSAID = 2  # a pid of whose memory the driver does not say how much


def failing(code: int) -> Callable[..., object]:
    def fail(*_: object) -> object:
        raise pynvml.NVMLError(code)

    return fail


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Stand in for a driver with two devices; return who holds memory on which."""
    holders: dict[str, list[int]] = {uuid: [] for uuid in UUIDS}
    answers: dict[str, Callable[..., object]] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(UUIDS),
        "nvmlDeviceGetHandleByIndex": lambda index: UUIDS[index],
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetUUID": lambda handle: handle,
        "nvmlDeviceGetName": lambda _: "NVIDIA H100",
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=80 * 2**30),
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [
            SimpleNamespace(pid=pid, usedGpuMemory=None if pid == UNSAID else 3 * 2**30)
            for pid in holders[handle]
        ],
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    return holders


@pytest.mark.usefixtures("nvml")
def test_devices_are_listed_by_index() -> None:
    assert list_gpus() == tuple(
        Gpu(index=index, uuid=uuid, name="NVIDIA H100", total_mib=81_920)
        for index, uuid in enumerate(UUIDS)
    )


def test_without_a_driver_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", failing(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    assert list_gpus() == ()


@pytest.mark.usefixtures("nvml")
def test_a_driver_that_fails_is_not_a_node_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", failing(pynvml.NVML_ERROR_GPU_IS_LOST))
    with pytest.raises(pynvml.NVMLError):
        list_gpus()


def test_who_holds_memory_is_asked_of_each_device(nvml: dict[str, list[int]]) -> None:
    nvml["GPU-a"], nvml["GPU-b"] = [1, UNSAID], [3]
    assert holders_of(UUIDS) == [
        Holder("GPU-a", 1, 3 * 1024),
        Holder("GPU-a", UNSAID, None),
        Holder("GPU-b", 3, 3 * 1024),
    ]
    assert holders_of(("GPU-b",)) == [Holder("GPU-b", 3, 3 * 1024)]
    assert holders_of(()) == []


def test_memory_of_a_dead_process_is_not_free_yet(nvml: dict[str, list[int]]) -> None:
    nvml["GPU-a"] = [DEAD]
    assert why_not_released(("GPU-a",)) == f"3072 MiB of GPU-a is held by pid {DEAD} (ended)"


def test_a_living_stranger_does_not_hold_up_a_stop(nvml: dict[str, list[int]]) -> None:
    nvml["GPU-a"] = [os.getpid()]
    assert why_not_released(("GPU-a",)) == ""


def test_a_stranger_holds_up_a_start_and_is_named(nvml: dict[str, list[int]]) -> None:
    nvml["GPU-a"] = [os.getpid()]
    name = Path("/proc/self/comm").read_text().strip()
    assert why_in_use(UUIDS) == f"3072 MiB of GPU-a is held by pid {os.getpid()} ({name})"
    assert why_in_use(("GPU-b",)) == ""


@pytest.mark.usefixtures("nvml")
def test_a_driver_that_does_not_say_counts_as_not_released(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = failing(pynvml.NVML_ERROR_UNKNOWN)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", failed)
    assert "GPU-a: the driver does not say who holds them" in why_not_released(("GPU-a",))
    assert why_in_use(("GPU-a",)) == ""
