"""Models that are started because somebody asks for them: two web processes, two nodes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.demo.waiting import until
from tests.integration.harness import LocalFleet, local_fleet

WEB_PROCESSES = 2
QUEUE = 4
SOON_S = 20.0


class Models:
    """A fleet with a catalogue that tests write."""

    def __init__(self, fleet: LocalFleet, file: Path, **web: str) -> None:
        """Start the web tier, of several processes that read `file`."""
        self.fleet = fleet
        self.file = file
        self.file.write_text("models: []\n")
        self.web = fleet.start_web(
            WEB_PROCESSES=str(WEB_PROCESSES), MODEL_CATALOGUE=str(file), **web
        )
        self.base = fleet.base
        self.pool = ThreadPoolExecutor(32)
        self.versions = count()

    def write(self, *entries: dict[str, Any]) -> None:
        """Write the catalogue, and wait until all web processes have read it."""
        version = f"version-{next(self.versions)}"
        plain = [{"model": "org/tiny", **entry} for entry in (*entries, {"name": version})]
        before = self.web.log.stat().st_size
        new = self.file.with_suffix(".new")
        new.write_text(f"models: {json.dumps(plain)}\n")
        new.replace(self.file)  # nobody reads a half of it
        read = f"{self.file}: {len(plain)} models".encode()
        # Not by asking: the same process may answer again and again.
        assert until(
            lambda: self.web.log.read_bytes()[before:].count(read) == WEB_PROCESSES, SOON_S
        ), self.web.log.read_text()

    def listed(self) -> set[str]:
        """Return the names of the models that one of the web processes lists."""
        with requests.get(f"{self.base}/v1/models", timeout=30) as answer:
            return {one["id"] for one in answer.json()["data"]}

    def ask(self, model: str, *, timeout: float = 60, **body: Any) -> requests.Response:
        """Ask a model, over a connection of its own."""
        said = {"model": model, "prompt": "a b", "max_tokens": 2, **body}
        with requests.post(f"{self.base}/v1/completions", json=said, timeout=timeout) as answer:
            answer.content  # noqa: B018 - reads it
            return answer

    def asked(self, model: str, count: int, **body: Any) -> list[Future[requests.Response]]:
        """Ask at once, so often."""
        return [self.pool.submit(self.ask, model, **body) for _ in range(count)]

    def instances(self, model: str) -> list[Any]:
        """Return the records of the model's replicas that are not over."""
        records = self.fleet.call("GET", "/instances").json().values()
        return [one for one in records if one["catalogue"] == model]

    def replica(self, model: str) -> Any:
        """Return the record of the only replica, once there is one."""
        assert until(lambda: len(self.instances(model)) == 1, SOON_S), self.instances(model)
        return self.instances(model)[0]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    folder = tmp_path_factory.mktemp("on-demand")
    with local_fleet(folder) as fleet:
        fleet.start_worker("one", VLLM_MAX_INSTANCES="3")
        fleet.start_beat()
        yield Models(fleet, folder / "models.yaml", MODEL_QUEUE=str(QUEUE))


@pytest.fixture
def models(running: Models) -> Iterator[Models]:
    yield running
    running.write()  # first: replicas that have to run would be started again
    running.fleet.delete_all()


def test_a_request_starts_its_model_and_is_answered(models: Models) -> None:
    models.write({"name": "chat", "timeout": 300})
    answer = models.ask("chat")
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "chat"
    replica = models.replica("chat")
    assert (replica["model_name"], replica["timeout"]) == ("org/tiny", 300)


def test_requests_at_once_in_two_web_processes_start_one_replica(models: Models) -> None:
    models.write({"name": "chat", "params": {"start_delay": 1.0}})
    answers = [future.result() for future in models.asked("chat", QUEUE)]
    assert [a.status_code for a in answers] == [200] * QUEUE, [a.text for a in answers]
    assert len(models.instances("chat")) == 1


def test_any_name_of_a_model_starts_it(models: Models) -> None:
    models.write({"name": "chat", "aliases": ["gpt-4o", "default"]})
    assert models.ask("default").status_code == 200
    assert models.ask("gpt-4o").status_code == 200
    assert len(models.instances("chat")) == 1


def test_a_name_that_is_younger_than_the_engine_is_served_too(models: Models) -> None:
    models.write({"name": "chat"})
    assert models.ask("chat").status_code == 200
    models.write({"name": "chat", "aliases": ["gpt-5"]})
    answer = models.ask("gpt-5")
    assert answer.status_code == 200, answer.text
    assert len(models.instances("chat")) == 1


def test_the_caller_of_a_stream_hears_how_far_it_is(models: Models) -> None:
    models.write({"name": "chat", "params": {"start_delay": 12.0}})
    said = {"model": "chat", "prompt": "a", "max_tokens": 2, "stream": True}
    lines, times = [], [time.monotonic()]
    with requests.post(f"{models.base}/v1/completions", json=said, stream=True, timeout=60) as got:
        assert got.headers["Content-Type"].startswith("text/event-stream")
        for line in got.iter_lines():
            lines.append(line)
            times.append(time.monotonic())
    comments = [line for line in lines if line.startswith(b":")]
    assert len(comments) >= 2
    assert all(b"loading" in line or b"starting" in line for line in comments), comments
    assert max(b - a for a, b in pairwise(times)) < 10
    events = [line for line in lines if line.startswith(b"data:")]
    assert events[-1] == b"data: [DONE]"
    assert json.loads(events[0].removeprefix(b"data: "))["choices"]


def test_a_line_that_is_full_takes_nobody_more(models: Models) -> None:
    models.write({"name": "chat", "params": {"start_delay": 20.0}})
    waiting = models.asked("chat", QUEUE)
    assert until(lambda: sum(f.running() for f in waiting) == QUEUE, SOON_S)
    models.replica("chat")
    time.sleep(1.0)  # all of them have come
    answer = models.ask("chat")
    assert answer.status_code == 429, answer.text
    assert 1 <= int(answer.headers["Retry-After"]) <= 600
    assert "MODEL_QUEUE allows 4" in answer.json()["error"]["message"]
    assert [future.result().status_code for future in waiting] == [200] * QUEUE


def test_of_many_at_once_as_many_wait_as_may_in_all_web_processes_together(
    models: Models,
) -> None:
    models.write({"name": "chat", "params": {"start_delay": 4.0}})
    answers = [future.result() for future in models.asked("chat", 28)]
    assert sorted(answer.status_code for answer in answers) == [200] * QUEUE + [429] * 24
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers if not answer.ok)


def test_a_start_that_crashes_answers_all_who_wait_with_the_cause(models: Models) -> None:
    models.write({"name": "chat", "params": {"oom_message": True, "start_delay": 1.0}})
    answers = [future.result() for future in models.asked("chat", QUEUE)]
    assert {answer.status_code for answer in answers} == {503}
    for answer in answers:
        assert "memory" in answer.json()["error"]["message"], answer.text
        assert int(answer.headers["Retry-After"]) >= 1


def test_a_start_that_fails_for_good_is_not_tried_at_once_until_it_is_changed(
    models: Models,
) -> None:
    models.write({"name": "chat", "params": {"no_such_flag": 3}})
    first = models.ask("chat")
    assert first.status_code == 503
    assert "no-such-flag" in first.json()["error"]["message"].replace("_", "-")
    failed = models.replica("chat")
    assert failed["status"] == "failed"
    again = models.ask("chat")
    assert (again.status_code, again.json()["error"]["message"]) == (
        503, first.json()["error"]["message"],
    )  # fmt: skip
    assert models.replica("chat")["instance_id"] == failed["instance_id"]
    models.write({"name": "chat"})
    assert models.ask("chat").status_code == 200
    assert until(lambda: len(models.instances("chat")) == 1, SOON_S)  # the failed one is gone


def test_a_start_for_which_nobody_waits_any_more_is_cancelled(models: Models) -> None:
    models.write({"name": "chat", "params": {"start_delay": 60.0}})
    with suppress(requests.Timeout):
        models.ask("chat", timeout=1.5)
    assert until(lambda: not models.instances("chat"), 30), models.instances("chat")


def test_a_start_that_somebody_else_waits_for_goes_on(models: Models) -> None:
    models.write({"name": "chat", "params": {"start_delay": 12.0}})
    waiting = models.asked("chat", 1)
    replica = models.replica("chat")
    for _ in range(3):  # hardly ever all at the process of the one who waits
        with suppress(requests.Timeout):
            models.ask("chat", timeout=0.5)
    assert waiting[0].result().status_code == 200
    assert models.replica("chat")["instance_id"] == replica["instance_id"]


def test_one_who_stops_the_start_answers_those_who_wait(models: Models) -> None:
    models.write({"name": "chat", "params": {"start_delay": 30.0}})
    waiting = models.asked("chat", 1)
    models.fleet.delete(models.replica("chat")["instance_id"])
    answer = waiting[0].result()
    assert answer.status_code == 503
    assert "was stopped: deleted by request" in answer.json()["error"]["message"]


def test_a_model_that_was_stopped_as_idle_is_started_again(models: Models) -> None:
    models.write({"name": "chat", "timeout": 1})
    assert models.ask("chat").status_code == 200
    first = models.replica("chat")["instance_id"]
    models.fleet.becomes(first, "stopped", 40)
    assert models.ask("chat").status_code == 200
    assert models.replica("chat")["instance_id"] != first


def test_a_fault_leaves_the_catalogue_before_it_in_force(models: Models) -> None:
    models.write({"name": "chat"})
    models.file.write_text("models:\n- name: chat\n  timeout: soon\n")

    def fault() -> str:
        return str(models.fleet.call("GET", "/readyz").json().get("catalogue", ""))

    assert until(lambda: "line 3: models[0].timeout: 'soon'" in fault(), SOON_S), fault()
    assert models.ask("chat").status_code == 200
    assert models.fleet.call("GET", "/readyz").status_code == 200


def test_a_model_that_nobody_knows_is_404(models: Models) -> None:
    models.write({"name": "chat"})
    answer = models.ask("nobody")
    assert answer.status_code == 404
    assert "chat" in answer.json()["error"]["message"]


def test_replicas_that_have_to_run_do_so_without_a_request(models: Models) -> None:
    models.write({"name": "chat", "timeout": 1, "replicas": {"min": 1}})
    replica = models.replica("chat")
    assert replica["timeout"] == 0
    models.fleet.becomes(replica["instance_id"], "running")
    models.fleet.delete(replica["instance_id"])
    assert models.replica("chat")["instance_id"] != replica["instance_id"]


def test_one_that_does_not_have_to_run_any_more_is_stopped_as_idle(models: Models) -> None:
    models.write({"name": "chat", "timeout": 1, "replicas": {"min": 1}})
    replica = models.replica("chat")
    models.fleet.becomes(replica["instance_id"], "running")
    models.write({"name": "chat", "timeout": 1})
    models.fleet.becomes(replica["instance_id"], "stopped", 40)


def test_one_that_runs_stays_when_it_has_to_from_now_on(models: Models) -> None:
    models.write({"name": "chat", "timeout": 4})
    assert models.ask("chat").status_code == 200
    models.write({"name": "chat", "timeout": 4, "replicas": {"min": 1}})
    replica = models.replica("chat")
    assert until(lambda: models.replica("chat")["timeout"] == 0, SOON_S)
    time.sleep(6.0)
    assert models.replica("chat")["instance_id"] == replica["instance_id"]


def test_a_load_that_lasts_has_another_replica_started(models: Models) -> None:
    slow = {"token_gap": 0.5}
    models.write({"name": "chat", "params": slow, "replicas": {"max": 2, "target": 1}})
    assert models.ask("chat").status_code == 200
    asked = models.asked("chat", 3, max_tokens=40)
    assert until(lambda: len(models.instances("chat")) == 2, 30), models.instances("chat")
    assert {future.result().status_code for future in asked} == {200}


def test_the_official_client_waits_for_its_model(models: Models) -> None:
    openai = pytest.importorskip("openai")
    models.write({"name": "chat", "params": {"start_delay": 7.0}})
    with closing(openai.OpenAI(base_url=f"{models.base}/v1", api_key="none")) as client:
        stream = client.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": "a"}], max_tokens=3, stream=True
        )
        assert "".join(piece.choices[0].delta.content or "" for piece in stream if piece.choices)


def test_the_official_client_hears_of_a_start_that_fails_in_its_stream(models: Models) -> None:
    openai = pytest.importorskip("openai")
    models.write({"name": "chat", "params": {"oom_message": True, "start_delay": 16.0}})
    with closing(openai.OpenAI(base_url=f"{models.base}/v1", api_key="none")) as client:
        stream = client.completions.create(model="chat", prompt="a", max_tokens=3, stream=True)
        with pytest.raises(openai.APIError, match="memory"):
            list(stream)
