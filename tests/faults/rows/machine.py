"""Rows 20 to 22, 42 to 45, 64: ports, pids, clocks, disks, descriptors and GPUs of the machine."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

import requests

from tests.faults import clock, sight
from tests.faults.ground import Ground, Setup, pretend_gpus
from tests.faults.row import Figures, Promise, Row
from tests.faults.timing import pause, seconds_until
from tests.integration.harness import STANDIN

_FLOOD_MB = 500
_FLOOD_MB_PER_S = 100
_LOG_MIB = 34.0  # two files of 16 MiB, each over by a piece
_HOUR = 3600
# vLLM asks for its key on the first only: by it alone another engine is not told from ours.
_ASKED_OF_ANOTHER = ("/v1/models", "/version", "/health")


def port_stolen(ground: Ground, _: int) -> Figures:
    """Row 20."""
    first = ground.fleet.base_port("one")
    with socket.socket() as held:  # as vLLM does while it loads: a bind that reuses would take it
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", first))
        return _port_squatted(ground, first)


def _port_squatted(ground: Ground, held: int) -> Figures:
    instance_id = ground.post(bind_delay=1.0)
    seconds_until(lambda: ground.record(instance_id).get("port"), 10, what="a port is chosen")
    port = ground.record(instance_id)["port"]
    assert port != held, f"port {port} was chosen, which somebody holds"
    with _squatter(port) as asked:  # before the engine could bind it
        ground.becomes(instance_id, "running", "failed", within_s=40)
        record = ground.record(instance_id)
        assert record["status"] == "running", record["reason"]
        assert record["port"] != port
        assert ground.engine_pid_behind(instance_id) == record["pid"]
        assert not [line for line in asked if b"/echo" in line], "a request reached the squatter"
    return {"starts": ground.spawns(instance_id)}


def another_engine_on_its_port(ground: Ground, _: int) -> Figures:
    """Row 21."""
    record = ground.create()
    instance_id = record["instance_id"]
    worker = ground.workers["one"].popen.pid
    wrong, statuses = 0, set()
    os.kill(worker, signal.SIGSTOP)  # so that nobody notices before the swap
    try:
        for pid in [ground.shim_of(instance_id), *sight.trees(ground.folder)[instance_id]]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        pause(0.2)
        with _other_engine(record["port"]):
            for number in range(20):
                path = _ASKED_OF_ANOTHER[number % len(_ASKED_OF_ANOTHER)]
                url = f"{ground.fleet.base}/proxy/{instance_id}{path}"
                answer = requests.get(url, timeout=10)
                statuses.add(answer.status_code)
                wrong += answer.status_code == 200
            os.kill(worker, signal.SIGCONT)
            seconds_until(lambda: ground.spawns(instance_id) == 2, 30, what="it is started again")
            ground.becomes(instance_id, "running")
    finally:
        os.kill(worker, signal.SIGCONT)
    assert statuses <= {502, 503}, statuses
    assert ground.record(instance_id)["port"] != record["port"]
    return {"answers of the wrong model": wrong}


def pid_reused(ground: Ground, _: int) -> Figures:
    """Row 22."""
    record = ground.create()
    instance_id = record["instance_id"]
    shim = ground.shim_of(instance_id)
    ground.kill_worker()
    for pid in [shim, *sight.trees(ground.folder)[instance_id]]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    old = [Path(f"/proc/{pid}") for pid in (record["pid"], shim)]
    seconds_until(lambda: not any(path.exists() for path in old), 20, what="init reaps them")
    strangers = [_process_with_pid(pid) for pid in (record["pid"], shim)]
    try:
        ground.start_worker()
        ground.becomes(instance_id, "running", within_s=30)
        ground.delete(instance_id)
        harmed = sum(stranger.poll() is not None for stranger in strangers)
    finally:
        for stranger in strangers:
            stranger.kill()
            stranger.wait()
    return {"strangers harmed": harmed}


def wrong_clock(ground: Ground, number: int) -> Figures:
    """Row 42."""
    shift = (_HOUR, -_HOUR)[number % 2]
    told = clock.shifted(ground.folder, shift)
    record = ground.create(timeout=60)
    instance_id = record["instance_id"]
    ground.kill_worker()
    ground.start_worker(env=told)
    assert ground.web
    ground.web.end(signal.SIGKILL)
    ground.start_web(**told)
    ground.beats[0].end(signal.SIGKILL)
    env, ground.fleet.env = ground.fleet.env, {**ground.fleet.env, **told}
    ground.beats[0] = ground.fleet.start_beat()
    ground.fleet.env = env
    other = ground.create(timeout=60)
    pause(8.0)
    stops = sum(ground.status(i) != "running" for i in (instance_id, other["instance_id"]))
    shown = ground.fleet.call("GET", f"/instances/{instance_id}").text
    assert not re.search(r"(?<!\w)-\d+ ?s\b", shown), f"a negative age: {shown}"
    assert not ground.node_status(instance_id).startswith("lost")
    ended = ground.create(timeout=1)["instance_id"]  # and expiry goes on as it should
    took_s = ground.becomes(ended, "stopped", within_s=30)
    for process in (ground.web, ground.workers["one"], ground.beats[0]):
        process.end(signal.SIGKILL)
    ground.start_worker()  # with right clocks, before anything is asked; beat is healed
    ground.start_web()
    return {"unexpected stops": stops, "expiry": took_s}


def disk_full(ground: Ground, _: int) -> Figures:
    """Row 43."""
    record = ground.create(log_flood=1)
    instance_id, ballast = record["instance_id"], ground.folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    for _ in range(20):
        assert _completes(ground, instance_id), "the engine does not answer"
    other = ground.post()
    seconds_until(
        lambda: "No space left" in str(ground.record(other).get("reason")),
        10,
        what="a start on a full disk says why it fails",
    )
    torn = sum(not _is_json(path) for path in ground.folder.glob("run-*/engines/*/*.json"))
    ballast.unlink()
    begun = monotonic()
    assert ground.status(instance_id) == "running"
    assert ground.record(instance_id)["pid"] == record["pid"], "the engine was lost"
    ground.becomes(other, "running", within_s=40)
    return {"torn files": torn, "well again": monotonic() - begun}


def log_flood(ground: Ground, _: int) -> Figures:
    """Row 44."""
    record = ground.create(log_flood=_FLOOD_MB, log_rate=_FLOOD_MB_PER_S)
    instance_id, over = record["instance_id"], threading.Event()
    largest, folder = 0.0, ground.fleet.run_dir("one") / "engines" / record["instance_id"]
    said = None
    begun = monotonic()
    while said is None and not over.wait(0.05):
        assert monotonic() - begun < 60, "the flood does not end"
        texts = {path: _tail(path) for path in folder.rglob("*.log*")}
        largest = max(largest, sum(p.stat().st_size for p in texts if p.exists()) / 2**20)
        found = [re.search(r"flood over, longest stall ([\d.]+) s", t) for t in texts.values()]
        said = next((match for match in found if match), None)
    assert said
    assert ground.status(instance_id) == "running"
    return {"child's longest stall": float(said[1]), "log on disk": largest}


def out_of_descriptors(ground: Ground, number: int) -> Figures:
    """Row 45."""
    record = ground.create()
    assert ground.web
    parent = ground.web.popen.pid
    victims = [ground.workers["one"].popen.pid] if number % 2 == 0 else _children(parent)
    instance_id = None
    with _few_descriptors(victims):
        answer = ground.fleet.call("POST", "/instances", json={"model_name": "org/tiny"})
        assert answer.status_code in {202, 503}, f"{answer.status_code}: {answer.text}"
        instance_id = answer.json().get("instance_id")
        pause(4.0)
    begun = monotonic()
    seconds_until(lambda: ground.fleet.call("GET", "/readyz").ok, 30, what="the web is ready")
    if instance_id:
        ground.becomes(instance_id, "running", "failed", within_s=40)
    assert ground.create()["status"] == "running"
    gone = [pid for pid in victims if sight.start_time(pid) is None]
    assert ground.record(record["instance_id"])["pid"] == record["pid"]
    return {"processes that ended": len(gone), "well again": monotonic() - begun}


def gpu_in_use(ground: Ground, _: int) -> Figures:
    """Row 64."""
    holder = subprocess.Popen(["sleep", "600"])
    try:
        pretend_gpus(ground.folder, ground.setup.gpus, {"GPU-0": [holder.pid]})
        instance_id = ground.post(tensor_parallel_size=ground.setup.gpus)
        seconds_until(
            lambda: str(holder.pid) in str(ground.record(instance_id).get("reason")),
            20,
            what="the reason names who holds the GPU",
        )
        pause(2.0)
        starts = ground.spawns(instance_id) + len(sight.trees(ground.folder))
    finally:
        pretend_gpus(ground.folder, ground.setup.gpus)
        holder.kill()
        holder.wait()
    ground.becomes(instance_id, "running")
    return {"starts": starts}


@contextmanager
def _squatter(port: int) -> Iterator[list[bytes]]:
    """Hold a port and answer everything with 200; yields the request lines that came."""
    asked: list[bytes] = []
    server = socket.create_server(("127.0.0.1", port), backlog=64)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                client.settimeout(2.0)
                with client, suppress(OSError):
                    asked.append(client.recv(65_536).split(b"\r\n")[0])
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield asked
    finally:
        server.close()


@contextmanager
def _other_engine(port: int) -> Iterator[None]:
    command = [*STANDIN.split(), "serve", "org/other", "--host=127.0.0.1", f"--port={port}"]
    env = {"VLLM_API_KEY": "anothers", "PATH": os.environ["PATH"]}
    with subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as other:

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            seconds_until(listens, 10, what="the other engine listens")
            yield
        finally:
            other.terminate()
            other.wait(10)


def _process_with_pid(pid: int) -> subprocess.Popen[bytes]:
    """Start a stranger that gets a certain pid. Needs root; another may snatch it: tries again."""
    for _ in range(200):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
        if stranger.pid == pid:
            return stranger
        stranger.kill()
        stranger.wait()
    raise AssertionError(f"pid {pid} could not be had")


@contextmanager
def _few_descriptors(pids: list[int]) -> Iterator[None]:
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids}
    for pid, (_, hard) in limits.items():
        used = max(int(name) for name in os.listdir(f"/proc/{pid}/fd")) + 1  # noqa: PTH208
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, hard))
    try:
        yield
    finally:
        for pid, limit in limits.items():
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)


def _children(parent: int) -> list[int]:
    tasks = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in tasks.read_text().split()]


def _completes(ground: Ground, instance_id: str) -> bool:
    url = f"{ground.fleet.base}/proxy/{instance_id}/v1/completions"
    body = {"model": "org/tiny", "prompt": "x", "max_tokens": 2}
    return requests.post(url, json=body, timeout=20).status_code == 200


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text()), dict)
    except ValueError:
        return False


def _tail(path: Path) -> str:
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        return file.read().decode(errors="replace")
    return ""


ROWS = (
    Row(
        number=20,
        fault="port taken between choice and bind",
        done="one held without listening; the chosen one squatted before the engine binds it",
        promise="another port after at most one retry; no request reaches the squatter",
        figures=(Promise(name="starts", at_most=2),),
        run=port_stolen,
        runs=3,
    ),
    Row(
        number=21,
        fault="another engine on the port of a dead one",
        done="tree killed while the worker is frozen, another vLLM listens there",
        promise="502 or 503, never the other's answer; the record is corrected",
        figures=(Promise(name="answers of the wrong model", at_most=0),),
        run=another_engine_on_its_port,
        runs=3,
    ),
    Row(
        number=22,
        fault="pid reused",
        done="strangers are given the pids of a dead engine and its shim",
        promise="no signal to a stranger",
        figures=(Promise(name="strangers harmed", at_most=0),),
        run=pid_reused,
        runs=3,
    ),
    Row(
        number=42,
        fault="clocks wrong by an hour",
        done="web, worker and beat an hour ahead, an hour behind; in turn",
        promise="nothing expires early, nothing has a negative age, what is idle expires",
        figures=(
            Promise(name="unexpected stops", at_most=0),
            Promise(name="expiry", at_most=15, unit="s"),
        ),
        run=wrong_clock,
        excused="I8",  # the web tier is started anew
        runs=2,
        # Held back, what a wrong clock makes idle would not end before the row does.
        setup=Setup(beats=1, env=(("IDLE_HOLD", "0"),)),
    ),
    Row(
        number=43,
        fault="disk full under logs and state",
        done="RUN_DIR on a tmpfs of 6 MiB, filled, an engine that logs",
        promise="the engine serves on; a start says that there is no space; no torn file; heals",
        figures=(
            Promise(name="torn files", at_most=0),
            Promise(name="well again", at_most=15, unit="s"),
        ),
        run=disk_full,
        runs=2,
        setup=Setup(small_disk_mib=6, redis_apart=True),
    ),
    Row(
        number=44,
        fault="log flood",
        done=f"an engine writes {_FLOOD_MB} MB at {_FLOOD_MB_PER_S} MB/s",
        promise="it is not slowed; the disk stays under the cap",
        figures=(
            Promise(name="child's longest stall", at_most=1, unit="s"),
            Promise(name="log on disk", at_most=_LOG_MIB, unit="MiB"),
        ),
        run=log_flood,
        runs=3,
    ),
    Row(
        number=45,
        fault="no file descriptors left",
        done="prlimit on the worker, on the web processes; in turn; a create",
        promise="202 or 503, nothing crashes, well again afterwards",
        figures=(
            Promise(name="processes that ended", at_most=0),
            Promise(name="well again", at_most=15, unit="s"),
        ),
        run=out_of_descriptors,
        runs=4,
    ),
    Row(
        number=64,
        fault="GPU in use by a stranger",
        done="the driver lists another's pid on it",
        promise="no start; the reason names who holds it; started once nobody does",
        figures=(Promise(name="starts", at_most=0),),
        run=gpu_in_use,
        runs=2,
        setup=Setup(gpus=2),
    ),
)
