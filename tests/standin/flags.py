"""The command line: the flags of `vllm serve` that a fleet may send, and the fault switches."""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from . import VERSION

# Known to vLLM 0.32, checked for type as vLLM would, and then ignored.
_VALUES: Final[dict[str, Callable[[str], object]]] = {
    "api-server-count": int,
    "block-size": int,
    "chat-template": str,
    "compilation-config": str,
    "convert": str,
    "cpu-offload-gb": float,
    "data-parallel-size": int,
    "distributed-executor-backend": str,
    "download-dir": str,
    "dtype": str,
    "generation-config": str,
    "gpu-memory-utilization": float,
    "hf-overrides": json.loads,
    "kv-cache-dtype": str,
    "limit-mm-per-prompt": json.loads,
    "load-format": str,
    "max-logprobs": int,
    "max-num-batched-tokens": str,  # vLLM also reads "8k"
    "max-num-seqs": int,
    "pipeline-parallel-size": int,
    "quantization": str,
    "reasoning-parser": str,
    "revision": str,
    "root-path": str,
    "runner": str,
    "seed": int,
    "shutdown-timeout": int,
    "speculative-config": json.loads,
    "tensor-parallel-size": int,
    "tokenizer": str,
    "tokenizer-mode": str,
    "tool-call-parser": str,
    "uvicorn-log-level": str,
}
_SWITCHES: Final = (
    "async-scheduling",
    "disable-log-stats",
    "disable-uvicorn-access-log",
    "enable-auto-tool-choice",
    "enable-chunked-prefill",
    "enable-expert-parallel",
    "enable-log-requests",
    "enable-lora",
    "enable-prefix-caching",
    "enable-server-load-tracking",
    "enforce-eager",
    "trust-remote-code",
)

_FAULT_SWITCHES: Final = {
    "ignore-sigterm": "the whole tree ignores SIGTERM; SIGINT still ends it",
    "crash-while-loading": "the worker fails half way through the weights",
    "oom-message": "the worker runs out of CUDA memory half way through the weights",
    "never-listen": "the load ends, the port never opens",
    "stall-stream": "streams stop after two chunks and hang",
    "hang": "/health is well, generations are accepted and never answered",
    "setsid-child": "a further child in its own session, deaf to SIGTERM, left behind on exit",
}


class Flags(NamedTuple):
    """What the command line says; times in seconds."""

    model: str
    host: str
    port: int
    served_names: tuple[str, ...]  # never empty; the first is the one shown in answers
    max_model_len: str
    api_key: str  # "" where the flag is absent
    start_delay: float
    first_token_delay: float
    token_gap: float
    crash_after: float | None
    crash_code: int
    term_delay: float
    log_flood: float  # 10^6 bytes
    log_rate: float  # 10^6 bytes a second; 0: as fast as the reader takes them
    slow_health: float
    bind_delay: float
    ignore_sigterm: bool
    crash_while_loading: bool
    oom_message: bool
    never_listen: bool
    stall_stream: bool
    hang: bool
    setsid_child: bool
    given: dict[str, object]  # what differs from the defaults, as vLLM logs it


def parse(argv: Sequence[str]) -> Flags:
    """Return the flags of `argv`, which starts with `serve`.

    Raises:
        SystemExit: with status 2 and vLLM's words on stderr, for a flag vLLM does not know.
    """
    parser, serve = _parser()
    values = vars(parser.parse_args([_dashed(argument) for argument in argv]))
    del values["command"]
    given = {name: value for name, value in values.items() if value != serve.get_default(name)}
    names = tuple(values.pop("served_model_name") or (values["model"],))
    known = {name: value for name, value in values.items() if name in Flags._fields}
    return Flags(served_names=names, given={"model_tag": values["model"], **given}, **known)


def _dashed(argument: str) -> str:
    """Spell the flag in `argument` with dashes; its value is left alone."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value


def _parser() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Return the parser of the whole line and the one of `serve` inside it."""
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    parser.add_argument("-v", "--version", action="version", version=VERSION)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", allow_abbrev=False)
    serve.add_argument("model")
    _add_vllm_flags(serve)
    _add_fault_flags(serve)
    return parser, serve


def _add_vllm_flags(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--host", default="0.0.0.0")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--served-model-name", nargs="+")
    serve.add_argument("--max-model-len", default="2048")
    serve.add_argument("--api-key", default="")
    for name, kind in _VALUES.items():
        serve.add_argument(f"--{name}", type=kind)
    for name in _SWITCHES:
        _add_switch(serve, name)


def _add_fault_flags(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--start-delay", type=float, default=0.2, help="seconds to load")
    serve.add_argument("--first-token-delay", type=float, default=0.0)
    serve.add_argument("--token-gap", type=float, default=0.01)
    serve.add_argument("--crash-after", type=float, help="seconds from ready to the crash")
    serve.add_argument("--crash-code", type=int, default=1)
    serve.add_argument("--term-delay", type=float, default=0.0, help="seconds to leave")
    serve.add_argument("--log-flood", type=float, default=0.0, help="MB of log once ready")
    serve.add_argument("--log-rate", type=float, default=0.0, help="MB/s of --log-flood")
    serve.add_argument("--slow-health", type=float, default=0.0, help="seconds until /health")
    serve.add_argument("--bind-delay", type=float, default=0.0, help="seconds before it binds")
    for name, meaning in _FAULT_SWITCHES.items():
        _add_switch(serve, name, meaning)


def _add_switch(serve: argparse.ArgumentParser, name: str, meaning: str = "") -> None:
    serve.add_argument(
        f"--{name}", action=argparse.BooleanOptionalAction, default=False, help=meaning
    )
