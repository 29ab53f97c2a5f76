"""The main job, end to end: a fleet, an instance by REST, a streamed answer, idle expiry."""

from __future__ import annotations

import json
import sys
from time import monotonic

import requests

from shared.settings import ROOT
from tests.demo.fleet import Fleet, FleetDidNotStart, running_fleet
from tests.demo.screen import Screen
from tests.demo.waiting import until

MODEL = "SmolLM2-135M-Instruct"
IDLE_S = 8
QUESTION = "What is the capital of France?"
_START_S = 600.0
_CREATE = {
    "model_name": MODEL,
    "params": {"max_model_len": 1024, "enforce_eager": True},
    "timeout": IDLE_S,
}


class DemoFailed(Exception):
    """Something did not go as shown; the message says what."""


def main() -> int:
    """Run the demo; return the exit status."""
    screen = Screen()
    try:
        screen.step("starting the fleet: Redis, web, worker, beat, Flower")
        with running_fleet(ROOT / ".run" / "demo", {}) as fleet:
            screen.line(f"web tier {fleet.base}, Flower {fleet.flower}, log {_near(fleet)}")
            _main_job(fleet, screen)
            screen.step("stopping the fleet, as Ctrl-C does")
            screen.line(f"everything has ended, after {fleet.stop():.1f} s")
    except (DemoFailed, FleetDidNotStart, requests.RequestException) as error:
        screen.step(f"the demo failed: {error}")
        return 1
    except KeyboardInterrupt:
        screen.step("interrupted; everything has ended")
        return 130
    screen.line("your turn: `make run`, then the curl lines of README.md\n")
    return 0


def _main_job(fleet: Fleet, screen: Screen) -> None:
    instance = _create(fleet, screen)
    _watch_start(fleet, instance, screen)
    _chat(fleet, instance, screen)
    _watch_expiry(fleet, instance, screen)


def _create(fleet: Fleet, screen: Screen) -> str:
    screen.step("creating an instance by REST")
    screen.line(f"curl -X POST {fleet.base}/instances -d '{json.dumps(_CREATE)}'")
    answer = requests.post(f"{fleet.base}/instances", json=_CREATE, timeout=30)
    record = answer.json()
    if answer.status_code != requests.codes.accepted:
        raise DemoFailed(f"POST /instances: {answer.status_code} {record}")
    screen.line(f"{answer.status_code}, {record['instance_id']} on node {record['node']}")
    return str(record["instance_id"])


def _watch_start(fleet: Fleet, instance: str, screen: Screen) -> None:
    screen.step("real vLLM loads the model")
    began = monotonic()
    record: dict[str, object] = {}

    def settled() -> bool:
        record.update(_record(fleet, instance))
        seconds = monotonic() - began
        progress = record["progress"]
        screen.progress(
            str(record["status"]),
            str(record["stage"]),
            progress if isinstance(progress, float | int) else None,
            seconds,
        )
        return record["status"] in ("running", "failed", "stopped", "stop_failed")

    until(settled, _START_S)
    screen.progress_done()
    if record["status"] != "running":
        lines = record["last_log"]
        log = "\n".join(lines) if isinstance(lines, list) else ""
        raise DemoFailed(
            f"instance is {record['status']}: {record['reason']} {record['advice']}\n{log}"
        )


def _chat(fleet: Fleet, instance: str, screen: Screen) -> None:
    screen.step(f"a streamed answer through the proxy: {QUESTION!r}")
    url = f"{fleet.base}/proxy/{instance}/v1/chat/completions"
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "stream": True,
    }
    screen.words("          ")
    began, said, first = monotonic(), "", 0.0
    with requests.post(url, json=body, stream=True, timeout=120) as answer:
        if not answer.ok:
            raise DemoFailed(f"POST {url}: {answer.status_code} {answer.text}")
        for line in answer.iter_lines(chunk_size=1):
            data = line.removeprefix(b"data: ")
            if not line or data == b"[DONE]":
                continue
            words = json.loads(data)["choices"][0]["delta"].get("content") or ""
            first = first or (monotonic() - began if words else 0.0)
            said += words
            screen.words(words)
    screen.words("\n")
    screen.line(f"first token after {first:.2f} s, all of it after {monotonic() - began:.2f} s")
    if "Paris" not in said:
        raise DemoFailed(f"the answer does not name Paris: {said!r}")


def _watch_expiry(fleet: Fleet, instance: str, screen: Screen) -> None:
    screen.step(f"nobody asks any more: it expires after {IDLE_S} s idle")
    began = monotonic()
    record: dict[str, object] = {}

    def ended() -> bool:
        record.update(_record(fleet, instance))
        screen.progress(str(record["status"]), "", None, monotonic() - began)
        return record["status"] in ("stopped", "stop_failed", "failed")

    until(ended, IDLE_S + 120.0)
    screen.progress_done()
    if record["status"] != "stopped":
        raise DemoFailed(f"instance is {record['status']}: {record['reason']}")
    screen.line(f"stopped: {record['reason']}; its processes, port and memory are gone")


def _record(fleet: Fleet, instance: str) -> dict[str, object]:
    found = requests.get(f"{fleet.base}/instances/{instance}", timeout=30).json()
    assert isinstance(found, dict)
    return found


def _near(fleet: Fleet) -> str:
    return str(fleet.log.relative_to(ROOT)) if fleet.log.is_relative_to(ROOT) else str(fleet.log)


if __name__ == "__main__":
    sys.exit(main())
