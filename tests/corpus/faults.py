"""Ways to make a real vLLM on a CPU fail, as data."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shared.settings import ROOT

MODEL = ROOT / ".models/SmolLM2-135M-Instruct"
ENGINE_DIES = "VLLM::EngineCore"
ITSELF = ""
READY = "Application startup complete"
LOADED = "Loading weights took"


def _same_model(_: Path) -> Path:
    return MODEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to fail."""

    code: str  # the cause it should be given
    flags: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    model: Callable[[Path], Path | str] = _same_model  # given a scratch folder
    limits: tuple[str, ...] = ()  # words before the command, as prlimit's
    memory_mib: int | None = None  # of a cgroup to run in; the kernel kills beyond
    kill: tuple[str, str, int] | None = None  # once the log has this, whom (by its title), signal
    port_held: bool = False
    live: bool = False  # cheap enough to be provoked in every run of the tests


@contextmanager
def held_port(*, held: bool) -> Iterator[int]:
    """Give a free port, or one that another program listens on, as vLLM binds it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        if held:
            listener.listen()
            yield port
    if not held:
        yield port


def _altered(**config: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        copy = _copy(folder)
        path = copy / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
        return copy

    return make


def _truncated(name: str, size: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        copy = _copy(folder)
        with (copy / name).open("r+b") as file:
            file.truncate(size)
        return copy

    return make


def _overwritten(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        copy = _copy(folder)
        (copy / name).write_bytes(content)
        return copy

    return make


def _without(*names: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        copy = _copy(folder)
        for name in names:
            (copy / name).unlink(missing_ok=True)
        return copy

    return make


def _named(name: str) -> Callable[[Path], str]:
    return lambda _: name


def _copy(folder: Path) -> Path:
    return Path(shutil.copytree(MODEL, folder / "model"))


FAULTS: dict[str, Fault] = {
    # what vLLM's command line refuses
    "unknown_flag": Fault(code="bad_flag", flags=("--no-such-flag=1",), live=True),
    "invalid_choice": Fault(code="bad_flag", flags=("--dtype=float99",)),
    "not_a_number": Fault(code="bad_flag", flags=("--max-num-seqs=many",)),
    "bad_json": Fault(code="bad_flag", flags=("--speculative-config={x",)),
    "context_longer_than_the_models": Fault(code="bad_value", flags=("--max-model-len=999999",)),
    "batch_shorter_than_context": Fault(
        code="bad_value",
        flags=(
            "--max-model-len=2048",
            "--max-num-batched-tokens=512",
            "--no-enable-chunked-prefill",
        ),
    ),
    "utilization_above_one": Fault(code="bad_value", flags=("--gpu-memory-utilization=1.5",)),
    "heads_not_divisible": Fault(code="bad_value", flags=("--tensor-parallel-size=2",)),
    "no_such_chat_template": Fault(code="bad_value", flags=("--chat-template=/no/such.jinja",)),
    "no_such_adapter": Fault(
        code="model_not_found",
        flags=("--enable-lora", '--lora-modules={"name":"a","path":"/no/such/adapter"}'),
    ),
    "unknown_quantization": Fault(code="bad_value", flags=("--quantization=bitsandbytes",)),
    "fp8_on_a_cpu": Fault(code="unsupported_platform", flags=("--quantization=fp8",)),
    "sleep_mode": Fault(code="unsupported_platform", flags=("--enable-sleep-mode",)),
    # what is wrong with the model
    "no_such_folder": Fault(code="model_not_found", model=_named("/no/such/model"), live=True),
    "unknown_name_offline": Fault(code="hub_unreachable", model=_named("nobody/nothing")),
    "unknown_name_online": Fault(
        code="hub_unreachable", model=_named("nobody/nothing"), env={"HF_HUB_OFFLINE": "0"}
    ),
    "no_config": Fault(code="model_not_found", model=_without("config.json")),
    "no_weights": Fault(code="model_not_found", model=_without("model.safetensors")),
    "no_tokenizer": Fault(
        code="model_not_found", model=_without("tokenizer.json", "tokenizer_config.json")
    ),
    "corrupt_config": Fault(code="model_corrupt", model=_overwritten("config.json", b"{ nonsense")),
    "corrupt_tokenizer": Fault(
        code="model_corrupt", model=_overwritten("tokenizer.json", b"{ nonsense")
    ),
    "truncated_weights": Fault(
        code="model_corrupt", model=_truncated("model.safetensors", 100_000_000)
    ),
    "empty_weights": Fault(code="model_corrupt", model=_truncated("model.safetensors", 0)),
    "pointer_for_weights": Fault(
        code="model_corrupt",
        model=_overwritten(
            "model.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 269060552\n",
        ),
    ),
    "weights_of_another_shape": Fault(
        code="model_corrupt", model=_altered(intermediate_size=1024, num_hidden_layers=2)
    ),
    "unknown_architecture": Fault(
        code="model_unsupported", model=_altered(architectures=["NoSuchForCausalLM"])
    ),
    "unknown_model_type": Fault(
        code="model_unsupported", model=_altered(model_type="nosuch", architectures=["NoSuch"])
    ),
    "own_code_not_trusted": Fault(
        code="model_code_refused",
        model=_altered(
            model_type="nosuch", auto_map={"AutoConfig": "configuration_nosuch.NoSuchConfig"}
        ),
        flags=("--no-trust-remote-code",),
    ),
    # what is wrong with the node
    "port_taken": Fault(code="port_taken", port_held=True, live=True),
    "cache_too_small_for_the_context": Fault(
        code="kv_cache_too_small",
        model=_altered(max_position_embeddings=131072),
        flags=("--max-model-len=100000",),
    ),
    "address_space_limit": Fault(
        code="host_out_of_memory",
        limits=("prlimit", "--as=2147483648"),
    ),
    "cgroup_limit": Fault(code="host_out_of_memory", memory_mib=1200),
    # what happens to it
    "killed": Fault(code="killed", kill=(READY, ITSELF, signal.SIGKILL)),
    "engine_core_killed": Fault(code="killed", kill=(READY, ENGINE_DIES, signal.SIGKILL)),
    "worker_killed": Fault(code="killed", kill=(READY, "VLLM::Worker", signal.SIGKILL)),
    "segmentation_fault": Fault(code="crashed", kill=(READY, ITSELF, signal.SIGSEGV)),
    "terminated_by_somebody": Fault(code="terminated", kill=(READY, ITSELF, signal.SIGTERM)),
}
"""Name of the log → how it was made."""
