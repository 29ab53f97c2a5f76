"""The stand-in engine does what the tests that use it rely on, as a real process.

Fixtures: `start` starts stand-ins and ends whatever is left of them; `engine` is one that is ready
and well, shared by the tests that only talk to it.
"""

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, str(ROOT / "tests" / "standin" / "vllm"))
PATIENCE_S = 10.0  # for a busy machine; nothing here takes more than a second on a quiet one


class Engine(NamedTuple):
    """A stand-in that was started."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body)
        with closing(self.connect()) as connection:
            connection.request(method, path, data, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def get(self, path: str) -> Any:
        return json.loads(self.ask("GET", path)[1])

    def is_open(self) -> bool:
        with closing(socket.socket()) as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def until_ready(self) -> "Engine":
        until(self.is_open)
        return self

    def children(self) -> dict[str, int]:
        """Return the living descendants by title."""
        found: dict[str, int] = {}
        parents = {self.process.pid}
        while parents:
            below = {pid for pid in processes() if parent_of(pid) in parents}
            found.update({title_of(pid): pid for pid in below})
            parents = below
        return found

    def text(self) -> str:
        return self.log.read_text()


Start = Callable[..., Engine]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    engines: list[Engine] = []
    folder = tmp_path_factory.mktemp("standin")

    def start_one(*flags: str, model: str = "tiny", env: dict[str, str] | None = None) -> Engine:
        port = free_port()
        log = folder / f"{len(engines)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*COMMAND, "serve", model, "--host=127.0.0.1", f"--port={port}", *flags],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={"PATH": os.defpath, **(env or {})},
                cwd=folder,
                start_new_session=True,
            )
        engines.append(Engine(process, port, log))
        return engines[-1]

    yield start_one
    for engine in engines:
        with suppress(ProcessLookupError):
            os.killpg(engine.process.pid, signal.SIGKILL)
        engine.process.wait()


@pytest.fixture(scope="module")
def engine(start: Start) -> Engine:
    return start("--start-delay=0", "--served_model_name", "a", "b").until_ready()


# The load


def test_the_port_refuses_until_the_load_is_over(start: Start) -> None:
    began = time.monotonic()
    engine = start("--start-delay=0.4")
    until(lambda: "non-default args" in engine.text())
    assert not engine.is_open()
    engine.until_ready()
    assert time.monotonic() - began >= 0.4
    assert engine.ask("GET", "/health") == (200, b"")


def test_the_log_tells_the_load_in_the_order_of_vllm(start: Start) -> None:
    engine = start("--start-delay=0.1").until_ready()
    until(lambda: "Application startup complete." in engine.text())
    told = [
        "(APIServer pid=",
        "non-default args: {'model_tag': 'tiny'",
        "Resolved architecture: LlamaForCausalLM",
        "(EngineCore pid=",
        "Initializing a V1 LLM engine (v0.32.0) with config:",
        "(Worker pid=",
        "Starting to load model tiny...",
        "Loading safetensors checkpoint shards:   0% Completed | 0/4 [00:00<?, ?it/s]",
        "Loading safetensors checkpoint shards: 100% Completed | 4/4",
        "Loading weights took",
        "init engine (profile, create kv cache, warmup model) took",
        f"Starting vLLM server on http://127.0.0.1:{engine.port}",
        "INFO:     Application startup complete.",
    ]
    text = engine.text()
    places = [text.find(part) for part in told]
    assert -1 not in places
    assert places == sorted(places)


@pytest.mark.parametrize("flag", ["--swap-space=1", "--foo", "--token-ga=1"])
def test_an_unknown_flag_is_status_2(start: Start, flag: str) -> None:
    engine = start(flag)
    assert engine.process.wait(PATIENCE_S) == 2
    assert f"vllm: error: unrecognized arguments: {flag}" in engine.text()


@pytest.mark.parametrize(
    ("model", "flags", "last_words"),
    [
        ("no/such-model", [], "OSError: no/such-model is not a local folder and is not a valid"),
        ("/no/such/folder", [], "OSError: /no/such/folder is not a local folder"),
        ("tiny", ["--oom-message"], "torch.OutOfMemoryError: CUDA out of memory."),
        ("tiny", ["--crash-while-loading"], "Engine core initialization failed."),
    ],
)
def test_a_load_that_fails_is_status_1_and_a_traceback(
    start: Start, model: str, flags: list[str], last_words: str
) -> None:
    engine = start("--start-delay=0", *flags, model=model)
    assert engine.process.wait(PATIENCE_S) == 1
    assert "Traceback (most recent call last):" in engine.text()
    assert last_words in engine.text()


def test_a_port_that_is_taken_is_status_1(start: Start, engine: Engine) -> None:
    other = start("--start-delay=0", f"--port={engine.port}")
    assert other.process.wait(PATIENCE_S) == 1
    assert "Address already in use" in other.text()


def test_an_engine_that_never_listens_stays_alive_and_closed(start: Start) -> None:
    engine = start("--start-delay=0", "--never-listen")
    until(lambda: "init engine" in engine.text())
    time.sleep(0.1)
    assert not engine.is_open()
    assert engine.process.poll() is None


def test_the_package_runs_as_a_module_too() -> None:
    command = [sys.executable, "-m", "tests.standin", "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert done.stdout == b"0.32.0\n"


# The tree and its end


def test_the_tree_is_three_processes_of_one_group(engine: Engine) -> None:
    children = engine.children()
    assert sorted(children) == ["VLLM::EngineCore", "VLLM::Worker"]
    assert parent_of(children["VLLM::EngineCore"]) == engine.process.pid
    assert parent_of(children["VLLM::Worker"]) == children["VLLM::EngineCore"]
    assert {os.getpgid(pid) for pid in children.values()} == {engine.process.pid}


def test_the_children_keep_the_folder_but_not_the_environment(start: Start) -> None:
    engine = start("--start-delay=0", env={"FLEET_INSTANCE_ID": "i1"}).until_ready()
    for pid in engine.children().values():
        assert b"FLEET_INSTANCE_ID" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert Path(f"/proc/{pid}/cwd").readlink() == engine.log.parent


@pytest.mark.parametrize("to_the_group", [False, True])
def test_sigterm_ends_the_whole_tree_with_status_0(start: Start, *, to_the_group: bool) -> None:
    engine = start("--start-delay=0").until_ready()
    children = engine.children()
    with closing(engine.connect()) as client:
        client.request("GET", "/silent?seconds=30")
        send = os.killpg if to_the_group else os.kill
        send(engine.process.pid, signal.SIGTERM)
        assert engine.process.wait(PATIENCE_S) == 0
        with pytest.raises(ConnectionError):
            client.getresponse()
    assert len(children) == 2
    assert not any(is_alive(pid) for pid in children.values())


def test_sigterm_ends_an_engine_that_is_still_loading(start: Start) -> None:
    engine = start("--start-delay=30")
    until(lambda: len(engine.children()) == 2)
    until(lambda: "Starting to load model" in engine.text())
    engine.process.terminate()
    assert engine.process.wait(PATIENCE_S) == 0
    assert engine.children() == {}


def test_sigkill_of_the_main_process_leaves_its_children(start: Start) -> None:
    engine = start("--start-delay=0").until_ready()
    children = engine.children()
    engine.process.kill()
    engine.process.wait()
    time.sleep(0.1)
    assert len(children) == 2
    assert all(is_alive(pid) for pid in children.values())
    os.killpg(engine.process.pid, signal.SIGKILL)
    until(lambda: not any(is_alive(pid) for pid in children.values()))


@pytest.mark.parametrize("victim", ["VLLM::EngineCore", "VLLM::Worker"])
def test_the_death_of_a_child_ends_the_tree_with_status_1(start: Start, victim: str) -> None:
    engine = start("--start-delay=0").until_ready()
    children = engine.children()
    os.kill(children[victim], signal.SIGKILL)
    assert engine.process.wait(PATIENCE_S) == 1
    assert "EngineDeadError" in engine.text()
    until(lambda: not any(is_alive(pid) for pid in children.values()))


def test_an_engine_may_ignore_sigterm_but_not_sigint(start: Start) -> None:
    engine = start("--start-delay=0", "--ignore-sigterm").until_ready()
    children = engine.children()
    os.killpg(engine.process.pid, signal.SIGTERM)
    time.sleep(0.1)
    assert engine.ask("GET", "/health")[0] == 200
    assert engine.children() == children
    engine.process.send_signal(signal.SIGINT)
    assert engine.process.wait(PATIENCE_S) == 0
    assert not any(is_alive(pid) for pid in children.values())


def test_a_slow_end_takes_its_delay(start: Start) -> None:
    engine = start("--start-delay=0", "--term-delay=0.2").until_ready()
    began = time.monotonic()
    engine.process.terminate()
    assert engine.process.wait(PATIENCE_S) == 0
    assert time.monotonic() - began >= 0.2


def test_an_escaped_child_outlives_a_graceful_end(start: Start) -> None:
    engine = start("--start-delay=0", "--setsid-child").until_ready()
    escapee = engine.children()["VLLM::Escapee"]
    try:
        assert os.getsid(escapee) == escapee
        engine.process.terminate()
        assert engine.process.wait(PATIENCE_S) == 0
        os.kill(escapee, signal.SIGTERM)
        time.sleep(0.1)
        assert is_alive(escapee)
    finally:
        os.kill(escapee, signal.SIGKILL)


def test_a_crash_when_ready_has_its_code_and_a_traceback(start: Start) -> None:
    engine = start("--start-delay=0", "--crash-after=0.1", "--crash-code=7").until_ready()
    assert engine.process.wait(PATIENCE_S) == 7
    assert "RuntimeError: stand-in crash" in engine.text()


def test_a_flood_writes_its_megabytes(start: Start) -> None:
    engine = start("--start-delay=0", "--log-flood=2")
    until(lambda: engine.log.stat().st_size >= 2_000_000)
    assert engine.ask("GET", "/health")[0] == 200


# The API


def test_models_lists_the_served_names(engine: Engine) -> None:
    assert [entry["id"] for entry in engine.get("/v1/models")["data"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        ("/v1/models", "", 401),
        ("/v1/models", "Bearer wrong", 401),
        ("/v1/models", "Bearer secret", 200),
        ("/v2/anything", "", 401),
        ("/health", "", 200),
        ("/metrics", "", 200),
    ],
)
def test_the_key_is_wanted_under_the_api_paths_only(
    locked: Engine, path: str, token: str, status: int
) -> None:
    assert locked.ask("GET", path, headers={"Authorization": token})[0] == status


@pytest.fixture(scope="module")
def locked(start: Start) -> Engine:
    return start("--start-delay=0", env={"VLLM_API_KEY": "secret"}).until_ready()


def test_a_chat_has_as_many_tokens_as_asked(engine: Engine) -> None:
    status, body = engine.ask("POST", "/v1/chat/completions", {"model": "b", "max_tokens": 3})
    answer = json.loads(body)
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "token0 token1 token2 "
    assert answer["usage"]["completion_tokens"] == 3


def test_an_unknown_model_is_404(engine: Engine) -> None:
    status, body = engine.ask("POST", "/v1/completions", {"model": "other", "prompt": "x"})
    assert status == 404
    assert json.loads(body)["error"]["message"] == "The model `other` does not exist."


def test_a_stream_arrives_chunk_by_chunk(start: Start) -> None:
    engine = start("--start-delay=0", "--first-token-delay=0.2", "--token-gap=0.1").until_ready()
    with closing(engine.connect()) as client:
        began = time.monotonic()
        client.request("POST", "/v1/completions", json.dumps({"stream": True, "max_tokens": 3}))
        answer = client.getresponse()
        arrivals = []
        while line := answer.readline():
            if line.startswith(b"data: {"):
                arrivals.append(time.monotonic() - began)
    assert answer.headers["Transfer-Encoding"] == "chunked"
    # Half of the true spread: a late reader narrows it, a buffered stream has none.
    assert arrivals[0] >= 0.2
    assert arrivals[2] - arrivals[0] > 0.1


def test_a_stalled_stream_hangs_after_two_chunks(start: Start) -> None:
    engine = start("--start-delay=0", "--stall-stream").until_ready()
    with closing(engine.connect()) as client:
        client.request("POST", "/v1/completions", json.dumps({"stream": True}))
        client.sock.settimeout(0.3)
        answer = client.getresponse()
        lines = [answer.readline() for _ in range(4)]
        assert [line[:5] for line in lines] == [b"data:", b"\n", b"data:", b"\n"]
        with pytest.raises(TimeoutError):
            answer.readline()


def test_a_hung_engine_is_healthy_and_its_counter_stands_still(start: Start) -> None:
    engine = start("--start-delay=0", "--hang").until_ready()
    with closing(engine.connect()) as client:
        client.request("POST", "/v1/chat/completions", json.dumps({"messages": []}))
        client.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.getresponse()
    assert engine.ask("GET", "/health")[0] == 200
    metrics = engine.ask("GET", "/metrics")[1].decode()
    assert 'vllm:num_requests_running{engine="0",model_name="tiny"} 1.0' in metrics
    assert 'vllm:iteration_tokens_total_count{engine="0",model_name="tiny"} 0.0' in metrics


# The routes for tests


def test_echo_tells_a_chunked_upload_as_it_arrived(engine: Engine) -> None:
    blocks = [b"x" * 100_000, b"y" * 7, b"z" * 70_000]
    with closing(engine.connect()) as client:
        client.putrequest("PATCH", "/echo/a%2Fb/../c?q=%20&q=2", skip_accept_encoding=True)
        for name, value in [("X-b", "1"), ("x-A", "2"), ("X-b", "3")]:
            client.putheader(name, value)
        client.putheader("Transfer-Encoding", "chunked")
        client.endheaders(iter(blocks), encode_chunked=True)
        answer = client.getresponse()
        seen = json.loads(answer.read())
        assert answer.headers.get_all("X-Twice") == ["first", "second"]
        assert answer.headers["X-Engine-Pid"] == str(engine.process.pid)
    whole = b"".join(blocks)
    assert (seen["method"], seen["target"]) == ("PATCH", "/echo/a%2Fb/../c?q=%20&q=2")
    assert seen["headers"][1:4] == [["X-b", "1"], ["x-A", "2"], ["X-b", "3"]]
    assert seen["body_length"] == len(whole)
    assert seen["body_sha256"] == hashlib.sha256(whole).hexdigest()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/silent?seconds=30&n=1", None),
        ("GET", "/sse?count=9&first=30", None),
        ("POST", "/v1/chat/completions", {"stream": True, "max_tokens": 100_000}),
        ("POST", "/v1/completions", {"max_tokens": 100_000}),
    ],
)
def test_a_client_that_leaves_is_noticed_at_once(
    engine: Engine, method: str, path: str, body: object
) -> None:
    before = len(engine.get("/seen"))
    with closing(engine.connect()) as client:
        client.request(method, path, None if body is None else json.dumps(body))
        time.sleep(0.1)
    until(lambda: len(engine.get("/seen")) > before)
    last = engine.get("/seen")[-1]
    assert (last["target"], last["outcome"]) == (path, "aborted")
    assert last["seconds"] < 5.0  # of 30 and more


def test_a_complete_answer_is_done(engine: Engine) -> None:
    engine.ask("GET", "/sse?count=2&gap=0")
    until(lambda: engine.get("/seen")[-1]["target"] == "/sse?count=2&gap=0")
    assert engine.get("/seen")[-1]["outcome"] == "done"


@pytest.mark.parametrize("path", ["/bytes/200000", "/chunked-bytes/200000"])
def test_a_download_is_whole_and_the_connection_stays(engine: Engine, path: str) -> None:
    with closing(engine.connect()) as client:
        for _ in range(2):
            client.request("GET", path)
            assert client.getresponse().read() == bytes(at % 251 for at in range(200_000))


def test_a_stream_cut_by_the_engine_lacks_its_end(engine: Engine) -> None:
    with closing(engine.connect()) as client:
        client.request("GET", "/die-mid-stream")
        with pytest.raises(http.client.IncompleteRead) as cut:
            client.getresponse().read()
    assert cut.value.partial == b"data: one\n\ndata: two\n\n"
    assert engine.ask("GET", "/health")[0] == 200


def test_an_early_answer_leaves_the_body_unread(engine: Engine) -> None:
    with closing(engine.connect()) as client:
        client.putrequest("POST", "/early-413")
        client.putheader("Content-Length", "1000000000")
        client.endheaders(b"only the beginning")
        answer = client.getresponse()
        assert (answer.status, answer.headers["Connection"]) == (413, "close")


@pytest.mark.parametrize("code", [200, 204, 304, 418, 503])
def test_any_status_can_be_had(engine: Engine, code: int) -> None:
    status, body = engine.ask("GET", f"/status/{code}")
    assert status == code
    assert bool(body) == (code not in {204, 304})


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/bytes/9", "/sse", "/seen", "/echo"])
def test_head_has_the_headers_and_no_body(engine: Engine, path: str) -> None:
    with closing(engine.connect()) as client:
        client.request("HEAD", path)
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
        client.request("GET", "/health")  # nothing of a body was left on the connection
        assert client.getresponse().status == 200


def free_port() -> int:
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def processes() -> list[int]:
    """Return the living processes of the machine; a zombie is not living."""
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if is_alive(int(entry.name))]


def is_alive(pid: int) -> bool:
    return stat_of(pid)[0] not in {"Z", "X"}


def parent_of(pid: int) -> int:
    return int(stat_of(pid)[1])


def stat_of(pid: int) -> list[str]:
    """Return the fields of proc(5) stat from the state on; of a process that is gone, as dead."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ["X", "0"]
    return text.rpartition(")")[2].split()


def title_of(pid: int) -> str:
    """Return the first word of the command line; "" of a process that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
