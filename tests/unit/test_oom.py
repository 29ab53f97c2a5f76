"""The kernel's word on memory, from its log and from its counters."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.causes import oom
from workers.causes.oom import Kill, OomKiller, kill_in

# Written by Linux 6.18 when a real vLLM 0.32.0 came upon its control group's limit.
RECORD = (
    b"3,1234,25833459083,-;Memory cgroup out of memory: Killed process 14304 (vllm) "
    b"total-vm:1861800kB, anon-rss:514828kB, file-rss:196740kB, shmem-rss:0kB, UID:0 "
    b"pgtables:2092kB oom_score_adj:0\n"
)
GLOBAL = (
    b"3,99,1000000,-;Out of memory: Killed process 77 (VLLM::EngineCor) total-vm:1kB, anon-rss:1kB"
)


def test_the_kernels_log_names_the_process() -> None:
    assert kill_in(RECORD) == Kill(25833.459083, 14304, "vllm")
    assert kill_in(GLOBAL) == Kill(1.0, 77, "VLLM::EngineCor")


@pytest.mark.parametrize(
    "record", [b"", b"6,1,2,-;usb 1-1: new device", b"3,1,2,-;vllm invoked oom-killer: gfp_mask=0"]
)
def test_other_lines_of_it_name_none(record: bytes) -> None:
    assert kill_in(record) is None


def counting(root: Path, groups: str, path: str, count: int) -> None:
    """Lay out what the kernel shows of a control group."""
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/vmstat").write_text("nr_free_pages 1\noom_kill 0\n")
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"low 0\noom 9\noom_kill {count}\n")


@pytest.mark.parametrize(
    ("groups", "path"),
    [
        (
            "0::/system.slice/fleet.service\n",
            "sys/fs/cgroup/system.slice/fleet.service/memory.events",
        ),
        ("0::/\n", "sys/fs/cgroup/memory.events"),
        ("4:memory:/a/b\n0::/\n", "sys/fs/cgroup/memory/a/b/memory.oom_control"),
        ("4:memory:/docker/x\n", "sys/fs/cgroup/memory/memory.oom_control"),
        ("", "proc/vmstat"),
    ],
)
def test_a_counter_that_grows_tells_of_a_kill(tmp_path: Path, groups: str, path: str) -> None:
    counting(tmp_path, groups, path, 3)
    killer = OomKiller(tmp_path)
    killer.look()
    assert killer.struck(1, [], 10.0) == ""
    counting(tmp_path, groups, path, 4)
    assert "for want of memory" in killer.struck(1, [], 10.0)


def test_what_was_counted_before_the_first_look_is_not_news(tmp_path: Path) -> None:
    counting(tmp_path, "0::/\n", "sys/fs/cgroup/memory.events", 7)
    assert OomKiller(tmp_path).struck(1, [], 10.0) == ""


def test_a_kill_of_long_ago_is_not_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting(tmp_path, "0::/\n", "sys/fs/cgroup/memory.events", 1)
    killer = OomKiller(tmp_path)
    killer.look()
    counting(tmp_path, "0::/\n", "sys/fs/cgroup/memory.events", 2)
    killer.look()
    monkeypatch.setattr(oom, "RECENT_S", 0.0)
    assert killer.struck(1, [], 10.0) == ""


def test_a_node_that_tells_nothing_is_no_trouble(tmp_path: Path) -> None:
    killer = OomKiller(tmp_path)
    killer.look()
    assert killer.struck(1, ["(EngineCore pid=5) INFO"], 10.0) == ""
