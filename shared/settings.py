"""Everything an operator may tune, read once from the environment and `.env`.

The one place that decides by `os.environ`. Every fault is reported at once, with the variable's
name, what was wrong and what would be right. `python -m shared.settings` prints env.example.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from dotenv import load_dotenv

from shared.errors import SettingsError

ROOT = Path(__file__).resolve().parent.parent
"""The checkout: relative paths in settings start here, whatever the current directory is."""

_WEEK_S = 604_800  # poll(2) takes no more than 24 days
_SHORTEST_S = 0.1  # a sweep more often than that would only load Redis
_UNIX_PATH_MAX = 107  # sun_path holds 108 bytes with the final NUL: unix(7)

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_FAKE_GPU = re.compile(
    r"(?:(?P<number>[1-9][0-9]{0,2})x)?(?P<size>[1-9][0-9]{0,6})(?P<unit>[GM]iB)", re.IGNORECASE
)
_MOST_FAKE_GPUS = 64

_ENGINE_PATH = re.compile(r"/(?:[A-Za-z0-9._~:@!$&'()+=/-]*|(?:[A-Za-z0-9._~:@-]+/)*\*)")
_DOT_SEGMENT = re.compile(r"/\.{1,2}(?=/|$)")

_INHERITED = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "LD_LIBRARY_PATH",
)  # fmt: skip
"""What an engine gets of the worker's own environment; everything else it gets by name."""

_ENGINE_TUNABLES = (
    "NCCL_DEBUG NCCL_IB_DISABLE NCCL_P2P_DISABLE NCCL_P2P_LEVEL NCCL_SHM_DISABLE OMP_NUM_THREADS "
    "PYTORCH_CUDA_ALLOC_CONF TOKENIZERS_PARALLELISM VLLM_ALLOW_LONG_MAX_MODEL_LEN "
    "VLLM_CPU_KVCACHE_SPACE VLLM_CPU_NUM_OF_RESERVED_CPU VLLM_CPU_OMP_THREADS_BIND "
    "VLLM_ENGINE_READY_TIMEOUT_S VLLM_LOGGING_LEVEL VLLM_LOG_STATS_INTERVAL VLLM_USE_DEEP_GEMM "
    "VLLM_USE_FLASHINFER_SAMPLER"
)
"""Numbers and switches that tune an engine; none names code, files or addresses."""


def _text(value: str) -> str:
    return value


def _flag(value: str) -> bool:
    match value.strip().lower():
        case "true" | "1" | "yes" | "on":
            return True
        case "false" | "0" | "no" | "off":
            return False
    raise ValueError("must be true or false")


def _whole(least: int, most: int = 2**31) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not re.fullmatch(r"-?\d+", value.strip()) or not least <= int(value) <= most:
            limit = f"from {least} to {most}" if most < 2**31 else f"of at least {least}"
            raise ValueError(f"must be a whole number {limit}")
        return int(value)

    return parse


def _seconds(value: str) -> float:
    text = value.strip()
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text) or float(text) > _WEEK_S:
        raise ValueError(f"must be a number of seconds, like 30 or 0.5, at most {_WEEK_S}")
    return float(text)


def _interval(value: str) -> float:
    seconds = _seconds(value)
    if seconds < _SHORTEST_S:
        raise ValueError(f"must be a number of seconds from {_SHORTEST_S} to {_WEEK_S}")
    return seconds


def _path(value: str) -> Path:
    path = Path(value).expanduser()
    return path if path.is_absolute() else ROOT / path


def _words(value: str) -> tuple[str, ...]:
    words = tuple(shlex.split(value))
    if not words or not words[0]:
        raise ValueError("must name a program")
    return words


def _pip_words(value: str) -> tuple[str, ...]:
    return tuple(shlex.split(value))


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.strip() not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return value.strip()

    return parse


def _list(value: str) -> tuple[str, ...]:
    return tuple(re.split(r"[\s,]+", value.strip())) if value.strip() else ()


def _folders(value: str) -> tuple[Path, ...]:
    return tuple(_path(part) for part in value.split(os.pathsep) if part)


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62})", value):
        raise ValueError("must be 1 to 63 letters, digits, dots, dashes or underscores")
    return value


def _labels(value: str) -> Mapping[str, str]:
    labels = {}
    for pair in value.replace(",", " ").split():
        name, equals, text = pair.partition("=")
        if not (equals and _LABEL.fullmatch(name) and (not text or _LABEL.fullmatch(text))):
            raise ValueError(
                f"{pair!r} must be name=value, each of at most 63 letters, digits, dots, dashes, "
                "underscores or slashes, like zone=a,gpu=h100"
            )
        if name in labels:
            raise ValueError(f"{name} is given twice")
        labels[name] = text
    return labels


def _fake_gpus(value: str) -> tuple[int, ...]:
    sizes: list[int] = []
    for part in value.replace(",", " ").split():
        found = _FAKE_GPU.fullmatch(part)
        if not found:
            raise ValueError(
                f"{part!r} must be a number of GPUs and the memory of each, like 4x80GiB"
            )
        mib = int(found["size"]) * (1024 if found["unit"].lower().startswith("g") else 1)
        sizes += [mib] * int(found["number"] or 1)
    if len(sizes) > _MOST_FAKE_GPUS:
        raise ValueError(f"{len(sizes)} GPUs: must be at most {_MOST_FAKE_GPUS}")
    return tuple(sizes)


def _engine_paths(value: str) -> tuple[str, ...]:
    paths = tuple(value.replace(",", " ").split())
    for path in paths:
        if not _ENGINE_PATH.fullmatch(path) or "//" in path or _DOT_SEGMENT.search(path):
            raise ValueError(
                f"{path} must be a plain path like /sleep, or a prefix like /inference/*"
            )
    return paths


def _redis_url(value: str) -> str:
    if not re.match(r"(redis|rediss|unix)://", value):
        raise ValueError("must start with redis://, rediss:// or unix://")
    try:
        _ = urlsplit(value).port
    except ValueError:  # quotes what it takes for the port: part of a password with a slash in it
        raise ValueError(
            "not a URL like redis://:password@host:6379/0; in a password write %2F, %3F and %23 "
            "for /, ? and #"
        ) from None
    return value


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).strip("-._")[:63] or "node"


def _setting(
    env: str,
    parse: Callable[[str], object],
    default: object,
    *,
    unit: str,
    doc: str,
    shown: str | None = None,
    secret: bool = False,
) -> Any:
    """Declare one setting.

    Args:
        env: the variable's name.
        parse: turns its text into the value, or raises ValueError with what would be right.
        default: the text to parse where the variable is unset or empty; a callable makes it;
            None: the value is None.
        unit: of the value, for env.example.
        doc: one line, for env.example.
        shown: how env.example writes a default that differs from machine to machine.
        secret: keep it out of `repr`.
    """
    return field(
        repr=not secret,
        metadata={
            "env": env,
            "parse": parse,
            "default": default,
            "unit": unit,
            "doc": doc,
            "shown": shown,
            "secret": secret,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The environment, checked. Units are in the names or in the comment of env.example."""

    app_host: str = _setting(
        "APP_HOST", _text, "0.0.0.0",
        unit="address", doc="where the web tier listens",
    )  # fmt: skip
    app_port: int = _setting(
        "APP_PORT", _whole(1, 65535), "5000", unit="port", doc="where the web tier listens"
    )
    app_debug: bool = _setting(
        "APP_DEBUG", _flag, "false",
        unit="true/false", doc="log at debug level; reload the web tier when its code changes",
    )  # fmt: skip
    web_processes: int = _setting(
        "WEB_PROCESSES", _whole(1, 256), "2", unit="processes", doc="web processes"
    )
    web_threads: int = _setting(
        "WEB_THREADS", _whole(2, 4096), "64",
        unit="threads",
        doc="per web process, for requests that the relay does not take: the control API, odd ones",
    )  # fmt: skip
    web_graceful_timeout_s: int = _setting(
        "WEB_GRACEFUL_TIMEOUT", _whole(0, 86_400), "300",
        unit="seconds",
        doc="for requests under way to end when a web process is stopped or replaced",
    )  # fmt: skip
    proxy_connect_timeout_s: float = _setting(
        "PROXY_CONNECT_TIMEOUT", _seconds, "3", unit="seconds", doc="connecting to an engine"
    )
    proxy_first_byte_timeout_s: float = _setting(
        "PROXY_FIRST_BYTE_TIMEOUT", _seconds, "600",
        unit="seconds", doc="until an engine begins to answer (a long prefill is silent)",
    )  # fmt: skip
    proxy_idle_timeout_s: float = _setting(
        "PROXY_IDLE_TIMEOUT", _seconds, "300",
        unit="seconds", doc="silence in the middle of an answer",
    )  # fmt: skip
    proxy_compiled: bool = _setting(
        "PROXY_COMPILED", _flag, "true",
        unit="true/false",
        doc="pass the tokens of streams on in compiled code, where it could be compiled",
    )  # fmt: skip
    proxy_max_body: int = _setting(
        "PROXY_MAX_BODY", _whole(0, 2**40), "67108864",
        unit="bytes", doc="longest body of a request to an engine; a longer one is answered 413",
    )  # fmt: skip
    proxy_header_timeout_s: float = _setting(
        "PROXY_HEADER_TIMEOUT", _interval, "30",
        unit="seconds", doc="from the first byte of a request to the end of its headers",
    )  # fmt: skip
    proxy_body_timeout_s: float = _setting(
        "PROXY_BODY_TIMEOUT", _interval, "60",
        unit="seconds", doc="without a byte of a request's body, answered 408",
    )  # fmt: skip
    proxy_max_header_bytes: int = _setting(
        "PROXY_MAX_HEADER_BYTES", _whole(1024, 2**24), "65536",
        unit="bytes", doc="all headers of a request together; more is answered 431",
    )  # fmt: skip
    proxy_max_headers: int = _setting(
        "PROXY_MAX_HEADERS", _whole(8, 32768), "100",
        unit="headers", doc="of a request; more is answered 431",
    )  # fmt: skip
    proxy_allow_paths: tuple[str, ...] = _setting(
        "PROXY_ALLOW_PATHS", _engine_paths, "",
        unit="paths",
        doc="engine paths to open to admin keys besides the usual ones: /sleep /inference/*",
    )  # fmt: skip

    redis_url: str = _setting(
        "REDIS_URL", _redis_url, None,
        unit="URL", shown="the embedded Redis, on a socket in RUN_DIR",
        doc="your own Redis (6.2 or newer) or Valkey: redis://, rediss:// or unix://",
        secret=True,
    )  # fmt: skip
    embedded_redis: bool = field(default=False)  # whether REDIS_URL was left out

    node_name: str = _setting(
        "NODE_NAME", _name, _host_name,
        unit="name", shown="the host name", doc="this machine's name in the fleet",
    )  # fmt: skip
    node_address: str = _setting(
        "NODE_ADDRESS", _text, "127.0.0.1",
        unit="address",
        doc="where this node's engines listen and the web tier reaches them; a private address",
    )  # fmt: skip
    node_labels: Mapping[str, str] = _setting(
        "NODE_LABELS", _labels, "",
        unit="name=value,...", doc="of this machine, for requests to ask for: zone=a,gpu=h100",
    )  # fmt: skip
    node_fake_gpus: tuple[int, ...] = _setting(
        "NODE_FAKE_GPUS", _fake_gpus, "",
        unit="like 4x80GiB",
        doc="simulated GPUs, for tests and demos on a machine without any; engines run without one",
    )  # fmt: skip
    node_drain_timeout_s: float = _setting(
        "NODE_DRAIN_TIMEOUT", _seconds, "3600",
        unit="seconds",
        doc="for running requests to end before an engine is stopped because its node is drained",
    )  # fmt: skip
    run_dir: Path = _setting(
        "RUN_DIR", _path, ".run", unit="path", doc="state of this node: engines, logs, Redis data"
    )
    models_dir: Path = _setting(
        "MODELS_DIR", _path, ".models",
        unit="path",
        doc="a model_name that is a folder in here is served from it, anything else as vLLM does",
    )  # fmt: skip
    keep_engines: bool = _setting(
        "KEEP_ENGINES", _flag, "false",
        unit="true/false",
        doc="leave engines running when the worker is stopped, for the next one to adopt",
    )  # fmt: skip
    node_log_mib: int = _setting(
        "NODE_LOG_MIB", _whole(1, 2**24), "4096",
        unit="MiB",
        doc="of all engines' logs on this node; beyond it the oldest of those that ended go",
    )  # fmt: skip
    orphan_grace_s: float = _setting(
        "ORPHAN_GRACE", _seconds, "300",
        unit="seconds",
        doc="for which an engine on this node that no record knows is only reported, not ended",
    )  # fmt: skip
    drain_timeout_s: float = _setting(
        "DRAIN_TIMEOUT", _seconds, "30",
        unit="seconds", doc="for running requests to end before an engine is stopped",
    )  # fmt: skip
    stop_timeout_s: float = _setting(
        "STOP_TIMEOUT", _seconds, "20",
        unit="seconds", doc="after SIGTERM, before SIGKILL of the whole process tree",
    )  # fmt: skip
    start_stall_timeout_s: float = _setting(
        "START_STALL_TIMEOUT", _seconds, "600",
        unit="seconds", doc="without progress, after which a start is given up",
    )  # fmt: skip
    restart_backoff_s: float = _setting(
        "RESTART_BACKOFF", _interval, "10",
        unit="seconds",
        doc="from a crash to the next start; doubles with each crash; within a tenth, by chance",
    )  # fmt: skip
    restart_backoff_max_s: float = _setting(
        "RESTART_BACKOFF_MAX", _interval, "300",
        unit="seconds", doc="the longest wait between a crash and the next start",
    )  # fmt: skip
    restart_reset_after_s: float = _setting(
        "RESTART_RESET_AFTER", _seconds, "600",
        unit="seconds", doc="running for so long, an instance has its crashes before forgiven",
    )  # fmt: skip
    restart_max_failed_starts: int = _setting(
        "RESTART_MAX_FAILED_STARTS", _whole(1, 1000), "5",
        unit="crashes", doc="in a row without ever being ready, after which an instance is failed",
    )  # fmt: skip
    restart_max_per_hour: int = _setting(
        "RESTART_MAX_PER_HOUR", _whole(1, 1000), "10",
        unit="crashes", doc="within an hour, after which an instance is failed",
    )  # fmt: skip
    hang_grace_s: float = _setting(
        "HANG_GRACE", _interval, "120",
        unit="seconds",
        doc="with requests running and not one step of the engine, after which it counts as hung",
    )  # fmt: skip
    idle_sweep_interval_s: float = _setting(
        "IDLE_SWEEP_INTERVAL", _interval, "10",
        unit="seconds", doc="how often beat looks for idle instances",
    )  # fmt: skip
    placement: str = _setting(
        "PLACEMENT", _one_of("pack", "spread"), "pack",
        unit="pack or spread",
        doc="where a new instance goes: to the fullest place with room, or to the emptiest",
    )  # fmt: skip
    evict_after_s: float = _setting(
        "EVICT_AFTER", _seconds, "60",
        unit="seconds",
        doc="running for so long, an instance that nobody uses may be stopped to make room",
    )  # fmt: skip
    line_interval_s: float = _setting(
        "LINE_INTERVAL", _interval, "5",
        unit="seconds", doc="how often beat looks for room for instances that wait in line",
    )  # fmt: skip
    idle_hold_s: float = _setting(
        "IDLE_HOLD", _seconds, "60",
        unit="seconds",
        doc="how long idle instances are held back, where more than half of those that run are due "
        "at once; 0 = not at all",
    )  # fmt: skip

    vllm_command: tuple[str, ...] = _setting(
        "VLLM_COMMAND", _words, lambda: shlex.quote(str(ROOT / ".engines/default/bin/vllm")),
        unit="words", shown="the engine environment's own vllm",
        doc="words put before `serve MODEL ...`",
    )  # fmt: skip
    vllm_base_port: int = _setting(
        "VLLM_BASE_PORT", _whole(1, 65535), "9000", unit="port", doc="first port for engines"
    )
    vllm_max_instances: int = _setting(
        "VLLM_MAX_INSTANCES", _whole(0, 10_000), "20", unit="instances", doc="most per node"
    )
    vllm_default_dtype: str = _setting(
        "VLLM_DEFAULT_DTYPE", _text, "auto", unit="vLLM --dtype", doc="where nothing else says"
    )
    vllm_default_kv_cache_dtype: str = _setting(
        "VLLM_DEFAULT_KV_CACHE_DTYPE", _text, "auto",
        unit="vLLM --kv-cache-dtype", doc="where nothing else says",
    )  # fmt: skip
    vllm_default_trust_remote_code: bool = _setting(
        "VLLM_DEFAULT_TRUST_REMOTE_CODE", _flag, "true",
        unit="true/false", doc="whether a model's own code may run; false is safer",
    )  # fmt: skip
    vllm_default_timeout_s: int = _setting(
        "VLLM_DEFAULT_TIMEOUT", _whole(0), "600",
        unit="seconds", doc="idle time after which an instance is stopped; 0 = never",
    )  # fmt: skip
    vllm_config: Path = _setting(
        "VLLM_CONFIG", _path, "configs/vllm_config.json",
        unit="path", doc="start parameters that every instance begins with (JSON object)",
    )  # fmt: skip
    routing: str = _setting(
        "ROUTING", _one_of("least", "prefix", "session"), "least",
        unit="least/prefix/session",
        doc="which replica of a model a request goes to: the one with the fewest requests, or, of "
        "the same beginning of a prompt or the same X-Session-ID, the same as before",
    )  # fmt: skip
    model_catalogue: Path = _setting(
        "MODEL_CATALOGUE", _path, "configs/models.yaml",
        unit="path", doc="models that the fleet starts by itself when they are asked for",
    )  # fmt: skip
    model_queue: int = _setting(
        "MODEL_QUEUE", _whole(1, 100_000), "64",
        unit="requests",
        doc="that wait for one model while it loads; further ones are answered 429",
    )  # fmt: skip
    model_wait_s: float = _setting(
        "MODEL_WAIT", _interval, "1800",
        unit="seconds", doc="the longest that a request waits for its model",
    )  # fmt: skip
    cancel_unwanted: bool = _setting(
        "CANCEL_UNWANTED", _flag, "true",
        unit="true/false",
        doc="stop a model that still loads when the last request that waited for it has left",
    )  # fmt: skip
    vllm_unsafe_params: tuple[str, ...] = _setting(
        "VLLM_UNSAFE_PARAMS", _list, "",
        unit="names",
        doc="start parameters that requests may set although they run code or touch files",
    )  # fmt: skip
    vllm_allowed_models: tuple[str, ...] = _setting(
        "VLLM_ALLOWED_MODELS", _list, "*",
        unit="globs", doc="models, tokenizers and adapters that requests may name; URLs: like s3://mine/*",
    )  # fmt: skip
    vllm_model_roots: tuple[Path, ...] = _setting(
        "VLLM_MODEL_ROOTS", _folders, "",
        unit="paths with : between",
        doc="further folders of the node, beside MODELS_DIR, that models may lie in",
    )  # fmt: skip
    vllm_allowed_env: tuple[str, ...] = _setting(
        "VLLM_ALLOWED_ENV", _list, _ENGINE_TUNABLES,
        unit="globs", doc="environment variables that requests may give their engine",
    )  # fmt: skip
    engine_env_file: Path = _setting(
        "ENGINE_ENV_FILE", _path, "configs/engine.env",
        unit="path", doc="environment variables that every engine gets",
    )  # fmt: skip

    engine_pip_args: tuple[str, ...] = _setting(  # read by workers.provision, before this can be
        "ENGINE_PIP_ARGS", _pip_words, "",
        unit="words", doc="extra words for pip when the engine environment is made: a mirror",
    )  # fmt: skip

    hf_endpoint: str = _setting(
        "HF_ENDPOINT", _text, "", unit="URL", doc="for engines: a mirror of the model hub"
    )
    hf_home: str = _setting(
        "HF_HOME", _text, "", unit="path", doc="for engines: where the hub's files are cached"
    )
    hf_token: str = _setting(
        "HF_TOKEN", _text, "", unit="secret", doc="for engines: to load gated models", secret=True
    )
    http_proxy: str = _setting(
        "HTTP_PROXY", _text, "", unit="URL", doc="for engines: towards the model hub", secret=True
    )
    https_proxy: str = _setting(
        "HTTPS_PROXY", _text, "", unit="URL", doc="for engines: towards the model hub", secret=True
    )

    flower_port: int = _setting(
        "FLOWER_PORT", _whole(1, 65535), "5555",
        unit="port", doc="where Flower listens, on loopback",
    )  # fmt: skip

    inherited_env: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls) -> Settings:
        """Return the settings of this process; the environment wins over `.env`.

        Raises:
            SettingsError: at least one variable is wrong; the message lists all.
        """
        load_dotenv(ROOT / ".env")
        return cls.from_env(os.environ)

    @classmethod
    def load_or_exit(cls) -> Settings:
        """Return the settings, or print what is wrong with them and exit with status 2."""
        try:
            return cls.load()
        except SettingsError as error:
            sys.stderr.write(f"{_explain(error)}\n")
            sys.exit(2)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Return the settings that `env` gives. An empty value counts as unset.

        Raises:
            SettingsError: at least one variable is wrong; the message lists all.
        """
        values: dict[str, Any] = {}
        faults: list[str] = []
        for name, meta in _declared():
            try:
                values[name] = _parsed(meta, env.get(meta["env"], ""))
            except ValueError as error:
                given = "..." if meta["secret"] else repr(env.get(meta["env"], ""))
                faults.append(f"{meta['env']}={given}: {error}")
        last_port = values.get("vllm_base_port", 0) + values.get("vllm_max_instances", 0)
        if last_port > 65535:
            faults.append(
                f"VLLM_BASE_PORT + VLLM_MAX_INSTANCES = {last_port}: must be at most 65535"
            )
        if faults:
            raise SettingsError(faults)
        if values["redis_url"] is None:
            values["redis_url"] = f"unix://{embedded_socket(values['run_dir'])}"
            values["embedded_redis"] = True
        values["inherited_env"] = {name: env[name] for name in _INHERITED if name in env}
        return cls(**values)


def embedded_socket(run_dir: Path) -> Path:
    """Return where the embedded Redis of `run_dir` listens; only its owner can reach it.

    In `run_dir`, or, where that path is too long for a socket, in a folder of the user's own in
    the temporary directory.
    """
    path = run_dir / "redis" / "redis.sock"
    if len(os.fsencode(path)) <= _UNIX_PATH_MAX:
        return path
    digest = sha256(os.fsencode(run_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"vllm-fleet-{os.getuid()}-{digest}" / "redis.sock"


def env_example() -> str:
    """Return the text of env.example: every variable with unit, default and one line."""
    lines = ["# Copy to .env and change what you need. Unset or empty: the default shown here."]
    for _, meta in _declared():
        shown = meta["shown"] or meta["default"] or ""
        lines += ["", f"# {meta['doc']} ({meta['unit']}; default: {shown or 'unset'})"]
        lines += [f"# {meta['env']}={'' if meta['shown'] else shown}"]
    return "\n".join(lines) + "\n"


def _declared() -> list[tuple[str, Mapping[str, Any]]]:
    return [(item.name, item.metadata) for item in fields(Settings) if "env" in item.metadata]


def _parsed(meta: Mapping[str, Any], given: str) -> object:
    default = meta["default"]
    text = given.strip() or (default() if callable(default) else default)
    parse = cast("Callable[[str], object]", meta["parse"])
    return None if text is None else parse(text)


def _explain(error: SettingsError) -> str:
    listed = "\n".join(f"  {fault}" for fault in error.faults)
    return f"the environment is wrong (see env.example):\n{listed}"


if __name__ == "__main__":
    sys.stdout.write(env_example())
