"""Real vLLM among processes that die: its own API server, and the worker that looks after it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests

from shared.settings import ROOT
from tests.demo.waiting import until
from tests.e2e.conftest import CHAT_MODEL
from tests.integration.harness import LocalFleet, Process, local_fleet, processes_of

NODE = "real"
_TOKENS = 600  # some ten seconds: the worker is killed and started again meanwhile
_START_S = 300.0
_GONE_S = 20.0


@pytest.fixture(scope="module")
def real_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """A fleet whose processes can be killed one by one: honcho would end the others."""
    settings = {
        "VLLM_COMMAND": str(ROOT / ".engines/default/bin/vllm"),
        "STOP_TIMEOUT": "30",
        "RESTART_BACKOFF": "1",
        "HANG_GRACE": "30",
    }
    with local_fleet(tmp_path_factory.mktemp("real"), **settings) as fleet:
        fleet.start_web()
        fleet.start_worker(NODE)
        yield fleet


@pytest.fixture(scope="module")
def instance(real_fleet: LocalFleet) -> Any:
    """Return the record of an instance of a chat model, running."""
    params = {"max_model_len": 1024, "enforce_eager": True}
    body = {"model_name": CHAT_MODEL, "params": params, "timeout": 0}
    made = real_fleet.call("POST", "/instances", json=body).json()
    return real_fleet.becomes(made["instance_id"], "running", _START_S)


class Story(Thread):
    """A long streamed answer, read in a thread."""

    def __init__(self, fleet: LocalFleet, instance_id: str) -> None:
        super().__init__(daemon=True)
        self.pieces = 0
        self.end = ""  # the finish reason, once the stream has come to its proper end
        self._url = f"{fleet.base}/proxy/{instance_id}/v1/completions"

    def run(self) -> None:
        """Read to the end."""
        body = {
            "model": CHAT_MODEL, "prompt": "Once", "max_tokens": _TOKENS, "ignore_eos": True,
            "stream": True,
        }  # fmt: skip
        with requests.post(self._url, json=body, stream=True, timeout=120) as answer:
            reason = ""
            for line in answer.iter_lines(chunk_size=1):
                data = line.removeprefix(b"data: ")
                if data == b"[DONE]":
                    self.end = reason
                elif data:
                    self.pieces += 1
                    reason = json.loads(data)["choices"][0]["finish_reason"] or reason


def worker_of(fleet: LocalFleet) -> Process:
    """Return the worker that was started last."""
    return next(p for p in reversed(fleet.processes) if p.log.name.startswith(NODE))


def tree_of(fleet: LocalFleet, instance_id: str) -> set[int]:
    """Return the pids of an engine's processes, its shim not counted."""
    work = fleet.run_dir(NODE) / "engines" / instance_id / "work"
    return set(processes_of(work))


def core_of(fleet: LocalFleet, instance_id: str) -> int:
    """Return the pid of an engine's EngineCore."""
    return next(
        pid
        for pid in tree_of(fleet, instance_id)
        if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def watched_by(worker: Process) -> set[int]:
    """Return the pids of whose end a worker will hear: it holds a pidfd of each, see proc(5)."""
    watched = set()
    for info in Path(f"/proc/{worker.popen.pid}/fdinfo").iterdir():
        with suppress(OSError):
            lines = info.read_text().splitlines()
            watched |= {int(line.split()[1]) for line in lines if line.startswith("Pid:")}
    return watched


def test_a_stream_goes_on_while_the_worker_is_killed_and_the_engine_is_adopted(
    real_fleet: LocalFleet, instance: Any
) -> None:
    name, pid = instance["instance_id"], instance["pid"]
    tree = tree_of(real_fleet, name)
    story = Story(real_fleet, name)
    story.start()
    assert until(lambda: story.pieces > 3, 60)
    worker_of(real_fleet).end(signal.SIGKILL)
    real_fleet.start_worker(NODE)
    assert until(lambda: pid in watched_by(worker_of(real_fleet)), 30)
    assert story.is_alive()  # so that it lived through all of this
    story.join(120)
    assert (story.end, story.pieces >= _TOKENS) == ("length", True)
    record = real_fleet.record(name)
    assert {**record, "last_active": 0} == {**instance, "last_active": 0}
    assert (record["status"], record["pid"], record["restarts"]) == ("running", pid, 0)
    assert tree_of(real_fleet, name) == tree


def test_a_core_frozen_while_idle_is_found_by_the_first_request(
    real_fleet: LocalFleet, instance: Any
) -> None:
    name = instance["instance_id"]
    os.kill(core_of(real_fleet, name), signal.SIGSTOP)

    def ask_in_vain() -> None:
        body = {"model": CHAT_MODEL, "prompt": "Once", "max_tokens": 1}
        with suppress(requests.RequestException):
            real_fleet.call("POST", f"/proxy/{name}/v1/completions", json=body)

    asking = Thread(target=ask_in_vain, daemon=True)
    asking.start()
    assert until(lambda: real_fleet.record(name)["status"] != "running", 120)
    record = real_fleet.becomes(name, "running", _START_S)
    assert (record["cause"], record["restarts"]) == ("engine_hung", instance["restarts"] + 1)
    events = real_fleet.call("GET", f"/instances/{name}/events").json()["events"]
    why = [event["reason"] for event in events if event["status"] == "unhealthy"]
    assert "none for one token within 15 s" in why[-1], why
    asking.join(60)


def test_a_killed_api_server_leaves_nothing_behind_and_the_instance_comes_back(
    real_fleet: LocalFleet, instance: Any
) -> None:
    name = instance["instance_id"]
    before = real_fleet.record(name)
    tree = tree_of(real_fleet, name)
    assert len(tree) >= 3, tree  # API server, EngineCore, Worker: vLLM leaves the last two behind
    os.kill(before["pid"], signal.SIGKILL)
    assert until(lambda: real_fleet.record(name)["status"] != "running", _GONE_S)
    assert until(lambda: not tree & tree_of(real_fleet, name), _GONE_S)
    record = real_fleet.becomes(name, "running", _START_S)
    assert record["restarts"] == before["restarts"] + 1
    assert record["pid"] not in tree
    answer = real_fleet.call(
        "POST",
        f"/proxy/{name}/v1/chat/completions",
        json={
            "model": CHAT_MODEL,
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "temperature": 0,
        },
    )
    assert "Paris" in answer.json()["choices"][0]["message"]["content"]
    assert real_fleet.delete(name)["status"] == "deleted"
    assert tree_of(real_fleet, name) == set()
