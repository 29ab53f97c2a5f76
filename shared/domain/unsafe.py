"""Start parameters that a request may not set: those by which it could run code on a node.

Also those that read or write its files, open its network, or take down what keeps an engine's
callers apart. Operators set them in VLLM_CONFIG, or open them to requests with VLLM_UNSAFE_PARAMS.
All others pass, those that this vLLM does not know too, unless their name speaks of such a thing.

An object's keys are judged like names: `speculative_config` has a `load_format` inside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from shared.domain.spelling import KNOWN, keys_of, subject
from shared.errors import InvalidRequest

TRUST = "trust_remote_code"

_CODE = "it names code that the engine would run"
_FILES = "it has the engine read or write files of the node"
_NETWORK = "it has the engine open ports or connections of the caller's choice"
_ACCESS = "it lets whoever reaches the engine do more than ask the model"
_PROMPTS = "it writes what callers send into the log"

UNSAFE: Mapping[str, str] = {
    "additional_config": _CODE,
    "ec_manager_config": _CODE,
    "ec_transfer_config": _CODE,
    "io_processor_plugin": _CODE,
    "kv_transfer_config": _CODE,
    "logits_processors": _CODE,
    "middleware": _CODE,
    "model_class_overrides": _CODE,
    "reasoning_parser_plugin": _CODE,
    "scheduler_cls": _CODE,
    "tool_parser_plugin": _CODE,
    "tool_server": _CODE,
    "worker_cls": _CODE,
    "worker_extension_cls": _CODE,
    "allowed_local_media_path": _FILES,
    "download_dir": _FILES,
    "log_config_file": _FILES,
    "logging_config": _FILES,
    "mm_encoder_fp8_scale_path": _FILES,
    "mm_encoder_fp8_scale_save_path": _FILES,
    "model_loader_extra_config": _FILES,
    "profiler_config": _FILES,
    "ray_workers_use_nsight": _FILES,
    "watchdog_config": _FILES,
    "allowed_media_domains": _NETWORK,
    "api_server_count": "it starts further servers on the engine's port",
    "enable_elastic_ep": _NETWORK,
    "enable_fault_tolerance": _NETWORK,
    "fault_tolerance_config": _NETWORK,
    "kv_events_config": _NETWORK,
    "otlp_traces_endpoint": _NETWORK,
    "weight_transfer_config": _NETWORK,
    "allow_credentials": _ACCESS,
    "allowed_headers": _ACCESS,
    "allowed_methods": _ACCESS,
    "allowed_origins": _ACCESS,
    "enable_mm_embeds": _ACCESS,
    "enable_prompt_embeds": _ACCESS,
    "enable_scale_out": _ACCESS,
    "enable_sleep_mode": _ACCESS,
    "enable_tokenizer_info_endpoint": _ACCESS,
    "tokens_only": _ACCESS,
    "trust_request_chat_template": _ACCESS,
    "trust_request_mm_kwargs": _ACCESS,
    "enable_log_outputs": _PROMPTS,
    "enable_log_requests": _PROMPTS,
    "shutdown_timeout": "STOP_TIMEOUT says how long an engine may take to end",
    "watermark_config": "it holds a key, which records and command lines would show",
}
"""Refused whatever the value, with the reason; `null`, which takes away the operator's, too."""

HARMLESS_KEYS: Mapping[str, frozenset[str]] = {
    "compilation_config": frozenset(
        {
            "compile_sizes", "cudagraph_capture_sizes", "cudagraph_mode",
            "cudagraph_num_of_warmups", "cudagraph_specialize_lora", "custom_ops",
            "dynamic_shapes_config", "level", "max_cudagraph_capture_size", "mode",
            "pass_config", "splitting_ops", "use_inductor_graph_partition",
        }
    ),
}  # fmt: skip
"""Objects in which any other key names code or files."""

_KNOWN = frozenset(subject(name) for name in KNOWN.values())
_SAFE_LOADING = frozenset(
    {
        "auto", "bitsandbytes", "dummy", "fastsafetensors", "gguf", "hf", "mistral",
        "runai_streamer", "runai_streamer_sharded", "safetensors", "sharded_state",
    }
)  # fmt: skip
_EXECUTORS = frozenset({"mp", "ray", "uni", "external_launcher"})
_PLAIN = re.compile(r"[A-Za-z0-9_-]*")
# Transformers takes an attention implementation with a slash for code to fetch from the hub.
_PLAIN_ONLY = ("backend", "attn_implementation", "experts_implementation")
_SPEAKS_OF_IT = re.compile(
    r"(?:^|_)(?:cls|class|config|connector|dir|directory|endpoint|file|files|folder|middleware|"
    r"module|modules|path|paths|plugin|plugins|port|processors|qualname|script|server|socket|uri|"
    r"url)(?:_|$)"
)
_KEY_SPEAKS_OF_IT = re.compile(
    r"(?:^|_)(?:auto_map|cls|connector|dir|endpoint|file|files|folder|module|path|paths|plugin|"
    r"plugins|qualname|script|uri|url)$"
)
_NAMES_A_MODEL = re.compile(
    r"(?:.*_)?(?:model|tokenizer|name_or_path|model_id|model_name|tower|repo_id)"
)
"""Keys in an object whose value is a model's name or folder; `models` judges those."""
_REVISIONS = frozenset({"revision", "code_revision", "tokenizer_revision"})


@dataclass(frozen=True, slots=True)
class Said:
    """One thing that a parameter says: a key somewhere in it, or the parameter itself."""

    name: str  # normal form
    value: object
    is_key: bool  # of an object


def refuse_unsafe(
    params: Mapping[str, object], *, opened: Collection[str], may_trust: bool, field: str
) -> None:
    """Refuse what a request may not set.

    Args:
        params: with full names, as `params.checked` returns them.
        opened: full names that the operator has opened to requests.
        may_trust: whether a request may have the model's own code run.
        field: where they stood, for messages.

    Raises:
        InvalidRequest: names the parameter, why it is unsafe, and what an operator can do.
    """
    for name, value in params.items():
        about = subject(name)
        if about in opened:
            continue
        where = f"{field}.{name}"
        for said in things_said(name, value):
            why = _why_unsafe(said, name=about, may_trust=may_trust)
            if why:
                inside = f" ({said.name} inside it)" if said.is_key else ""
                raise InvalidRequest(
                    f"{where}: refused in a request{inside}: {why}; an operator allows it with "
                    f"VLLM_UNSAFE_PARAMS={about} or sets it in VLLM_CONFIG",
                    field=where,
                )


def things_said(name: str, value: object) -> Iterator[Said]:
    """Yield the parameter, and every key in its value, with what each is set to.

    A text that is JSON counts as what it says: after a dot, and in lists, vLLM reads it so, and a
    parameter that this vLLM does not know may be an object in another.
    """
    about, keys = subject(name), keys_of(name)
    if isinstance(value, str) and (keys or about not in _KNOWN):
        value = _as_json(value)
    for key in reversed(keys):
        value = {key: value}
    yield Said(about, value, is_key=False)
    yield from _keys_in(value)


def models_named(name: str, value: object) -> Iterator[str]:
    """Yield every model, tokenizer or adapter that a parameter names, by hub name or path."""
    for said in things_said(name, value):
        match said.name:
            case "tokenizer" | "hf_config_path" | "spec_model" | "default_mm_loras":
                yield from _texts(said.value)
            case "generation_config" if not said.is_key:
                yield from (text for text in _texts(said.value) if text not in ("auto", "vllm"))
            case "lora_modules" if not said.is_key:
                yield from _adapters(said.value)
            case key if said.is_key and _NAMES_A_MODEL.fullmatch(key):
                yield from _texts(said.value)


def revisions_named(name: str, value: object) -> Iterator[str]:
    """Yield every revision of a model, a tokenizer or its code that a parameter names."""
    for said in things_said(name, value):
        if said.name in _REVISIONS:
            yield from _texts(said.value)


def _why_unsafe(said: Said, *, name: str, may_trust: bool) -> str | None:
    if said.name in UNSAFE:
        return UNSAFE[said.name]
    if said.name == TRUST:
        trusts = said.value not in (False, None)
        return "it runs code that comes with the model" if trusts and not may_trust else None
    if said.name in HARMLESS_KEYS and not said.is_key:
        return _why_other_keys(said)
    plain_only = said.name.endswith(_PLAIN_ONLY)
    if check := _BY_VALUE.get(said.name) or (_is_plain if plain_only else None):
        wrong = next((text for text in _texts(said.value) if not check(text)), None)
        return None if wrong is None else f"it can name code or a file: {wrong!r:.80}"
    return _why_by_name(said, name)


def _why_by_name(said: Said, name: str) -> str | None:
    if said.is_key:
        return _FILES if _KEY_SPEAKS_OF_IT.search(said.name) else None
    if name not in _KNOWN and _SPEAKS_OF_IT.search(said.name):
        return "this vLLM has no such parameter, and its name speaks of code, files or connections"
    return None


def _why_other_keys(said: Said) -> str | None:
    if not isinstance(said.value, dict):
        return None if isinstance(said.value, (int, type(None))) else _CODE
    harmless = HARMLESS_KEYS[said.name]
    other = next((key for key in said.value if _normal(key) not in harmless), None)
    return None if other is None else f"its key {other!r:.80} can name code or files"


def _is_plain(text: str) -> bool:
    return _PLAIN.fullmatch(text) is not None


def _is_no_module(text: str) -> bool:
    # vLLM 0.32 imports a draft model of this form, unless told another method
    # (SpeculativeConfig._is_custom_proposer_path).
    parts = text.split(".")
    return len(parts) == 1 or not all(part.isidentifier() for part in parts)


def _is_inline_template(text: str) -> bool:
    # vLLM tries to open any template as a file before it takes it for one. The engine's current
    # directory is empty, so only what climbs out of it, or begins at the root, could be there.
    begins = text.partition("/")[0]
    return any(char in text for char in "{}\n") and begins not in ("", ".", "..")


_BY_VALUE: Mapping[str, Callable[[str], bool]] = {
    "attention_backend": _is_plain,
    "backend_per_kind": _is_plain,
    "chat_template": _is_inline_template,
    "distributed_executor_backend": _EXECUTORS.__contains__,
    "load_format": lambda text: text.lower() in _SAFE_LOADING,
    "method": lambda text: text != "custom_class",
    "model": _is_no_module,
    "reasoning_parser": _is_plain,
    "spec_method": lambda text: text != "custom_class",
    "spec_model": _is_no_module,
    "tool_call_parser": _is_plain,
    "uvicorn_log_level": lambda text: text != "trace",  # it logs every header, keys too
}


def _keys_in(value: object) -> Iterator[Said]:
    match value:
        case dict():
            for key, inner in value.items():
                yield Said(_normal(key), inner, is_key=True)
                yield from _keys_in(inner)
        case list():
            for item in value:
                yield from _keys_in(_as_json(item) if isinstance(item, str) else item)


def _normal(key: object) -> str:
    return str(key).replace("-", "_").lower()


def _as_json(text: str) -> object:
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return found


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
            if (said := _as_json(value)) != value:  # after a dot vLLM reads it so
                yield from _texts(said)
        case list():
            for item in value:
                yield from _texts(item)
        case dict():
            for item in value.values():
                yield from _texts(item)


def _adapters(value: object) -> Iterator[str]:
    for item in value if isinstance(value, list) else [value]:
        found = _as_json(item) if isinstance(item, str) else item
        if isinstance(found, dict):  # {"name": ..., "path": ..., "base_model_name": ...}
            yield from _texts(found.get("path"))
        elif isinstance(found, str):  # name=path
            yield found.partition("=")[2] or found
