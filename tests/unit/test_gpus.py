"""NVML's answers, by a stand-in of its few functions: no machine here has a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from shared.domain.node import Gpu, GpuMemory
from shared.errors import SettingsError
from workers.gpus import (
    Holder,
    gpus_of_node,
    holders_of,
    list_gpus,
    memory_of,
    why_no_room,
    why_not_released,
)

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
        "nvmlDeviceGetMigMode": failing(pynvml.NVML_ERROR_NOT_SUPPORTED),
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(
            total=80 * 2**30, free=(79 - 3 * len(holders[handle])) * 2**30
        ),
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


@pytest.mark.usefixtures("nvml")
def test_of_a_divided_device_its_mig_devices_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def part(handle: str, index: int) -> str:
        if index == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return f"MIG-{handle}-{index}"

    answers: dict[str, Callable[..., object]] = {
        "nvmlDeviceGetMigMode": lambda handle: [int(handle == "GPU-a"), 0],
        "nvmlDeviceGetMaxMigDeviceCount": lambda _: 3,
        "nvmlDeviceGetMigDeviceHandleByIndex": part,
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=10 * 2**30),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    listed = list_gpus()
    assert [(gpu.index, gpu.uuid) for gpu in listed] == [
        (0, "MIG-GPU-a-0"), (1, "MIG-GPU-a-2"), (2, "GPU-b"),
    ]  # fmt: skip
    assert [gpu.is_part for gpu in listed] == [True, True, False]


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
    assert why_no_room({"GPU-a": 1000, "GPU-b": 1000}) == (
        "81920 MiB of GPU-a needed and 77824 MiB free: "
        f"3072 MiB of GPU-a is held by pid {os.getpid()} ({name})"
    )
    assert why_no_room({"GPU-b": 1000}) == ""


def test_a_start_goes_beside_others_where_its_share_is_free(nvml: dict[str, list[int]]) -> None:
    nvml["GPU-a"] = [os.getpid()]
    assert why_no_room({"GPU-a": 950}) == ""
    assert why_no_room({"GPU-a": 951}) != ""


def test_an_empty_device_has_room_for_whatever_the_engine_makes_of_it(
    nvml: dict[str, list[int]],
) -> None:
    assert nvml["GPU-a"] == []
    assert why_no_room({"GPU-a": 1000}) == ""  # of which a driver always keeps some


@pytest.mark.usefixtures("nvml")
def test_a_driver_that_does_not_say_counts_as_not_released(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = failing(pynvml.NVML_ERROR_UNKNOWN)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", failed)
    assert "GPU-a: the driver does not say who holds them" in why_not_released(("GPU-a",))
    assert why_no_room({"GPU-a": 1000}) == ""


def test_memory_that_is_held_and_of_which_the_driver_names_nobody_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, nvml: dict[str, list[int]]
) -> None:
    nvml["GPU-a"] = [1, 2]
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", lambda _: [])
    assert why_no_room({"GPU-a": 900}) == ""
    assert why_no_room({"GPU-a": 950}).endswith("the driver does not say who holds it")


# what is free


def test_what_is_free_is_the_drivers_word_and_what_strangers_hold_is_said(
    nvml: dict[str, list[int]],
) -> None:
    nvml["GPU-a"] = [10, 11, 12]
    told = memory_of(list_gpus(), {10}, {"GPU-a": 3 * 1024})
    assert told == {
        "GPU-a": GpuMemory(free_mib=70 * 1024, foreign_mib=6 * 1024),
        "GPU-b": GpuMemory(free_mib=79 * 1024, foreign_mib=0),
    }


def test_of_a_stranger_of_whom_the_driver_says_no_size_the_rest_is_taken(
    nvml: dict[str, list[int]],
) -> None:
    nvml["GPU-a"] = [10, UNSAID]
    told = memory_of(list_gpus(), {10}, {"GPU-a": 1024})["GPU-a"]
    assert told == GpuMemory(free_mib=73 * 1024, foreign_mib=(80 - 73 - 3) * 1024)


def test_where_none_of_our_processes_is_listed_their_share_counts_as_ours(
    nvml: dict[str, list[int]],
) -> None:
    """As in a container, whose processes the driver knows by other numbers."""
    nvml["GPU-a"] = [10, 11]
    told = memory_of(list_gpus(), {5010, 5011}, {"GPU-a": 4 * 1024})["GPU-a"]
    assert told.foreign_mib == (80 - 73 - 4) * 1024


# simulated ones


def without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", failing(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))


def test_simulated_devices_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    without_a_driver(monkeypatch)
    first, second = gpus_of_node("one", (81_920, 24_576))
    assert first.simulated
    assert (first.uuid, first.total_mib, second.index) == ("SIM-one-0", 81_920, 1)
    assert second.name == "simulated, 24 GiB"
    assert gpus_of_node("one", ()) == ()


@pytest.mark.usefixtures("nvml")
def test_no_devices_are_simulated_beside_real_ones() -> None:
    assert len(gpus_of_node("one", ())) == 2
    with pytest.raises(SettingsError, match=r"NODE_FAKE_GPUS: .* this one has 2"):
        gpus_of_node("one", (1024,))


def test_no_driver_is_asked_about_simulated_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    without_a_driver(monkeypatch)
    gpus = gpus_of_node("one", (1000, 1000))
    assert memory_of(gpus, (), {"SIM-one-0": 900}) == {
        "SIM-one-0": GpuMemory(100),
        "SIM-one-1": GpuMemory(1000),
    }
    uuids = [gpu.uuid for gpu in gpus]
    assert holders_of(uuids) == []
    assert (why_not_released(uuids), why_no_room(dict.fromkeys(uuids, 1000))) == ("", "")
