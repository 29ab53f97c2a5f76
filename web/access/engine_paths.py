"""Which paths of an engine pass the proxy, and for whom. Pure.

Closed by default: a path passes because it is listed here, or because PROXY_ALLOW_PATHS names it.
The lists are of vLLM 0.32; a test compares them with the routes that the installed one declares.
"""

from __future__ import annotations

import re
from enum import Enum

INFERENCE = frozenset(
    {
        "/v1/chat/completions", "/v1/chat/completions/batch", "/v1/completions", "/v1/responses",
        "/v1/messages", "/v1/messages/count_tokens", "/cohere/v2/chat", "/v1/models",
        "/v1/embeddings", "/v2/embed", "/pooling", "/classify", "/score", "/v1/score",
        "/rerank", "/v1/rerank", "/v2/rerank", "/generative_scoring", "/v1/systemone",
        "/tokenize", "/detokenize",
        "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/realtime",
    }
)  # fmt: skip
"""What a model is run for."""

INFERENCE_BY_ID = ("/v1/responses/{id}", "/v1/responses/{id}/cancel")
"""A stored response: its id is the secret of whoever made it, 128 random bits in vLLM."""

ADMIN = frozenset({"/metrics", "/health", "/version", "/load", "/ping"})
"""How an engine is: they tell of everybody's requests, and change nothing."""

CLOSED = frozenset(
    {
        # run code or read the process's insides
        "/collective_rpc", "/server_info", "/start_profile", "/stop_profile", "/kv_event_sources",
        # stop or slow the engine for all
        "/sleep", "/wake_up", "/is_sleeping", "/pause", "/resume", "/is_paused", "/abort_requests",
        "/inference/v1/abort_requests", "/reset_prefix_cache", "/reset_mm_cache",
        "/reset_encoder_cache", "/release_kv_cache_memory", "/scale_elastic_ep",
        "/is_scaling_elastic_ep", "/fault_tolerance/apply", "/fault_tolerance/status",
        # change the model
        "/init_weight_transfer_engine", "/shutdown_weight_transfer_engine", "/start_weight_update",
        "/start_draft_weight_update", "/update_weights", "/finish_weight_update",
        "/update_weight_version", "/weight_info", "/weight_checker", "/get_world_size",
        "/v1/load_lora_adapter", "/v1/unload_lora_adapter",
        # raw tokens in and out, past the checks of the APIs above
        "/inference/v1/generate", "/invocations", "/tokenizer_info",
        "/v1/chat/completions/render", "/v1/completions/render", "/v1/messages/render",
        "/v1/responses/render", "/cohere/v2/chat/render",
        "/v1/chat/completions/derender", "/v1/completions/derender",
        # pages
        "/docs", "/redoc", "/openapi.json", "/static", "/docs/oauth2-redirect",
        # of vLLM's launchers, which the fleet does not use
        "/ready", "/readyz",
    }
)  # fmt: skip
"""Known and closed; what nobody knows is closed too, but `/v1/responses/render` is not an id."""

_READ = frozenset({"GET", "HEAD", "OPTIONS"})
_ASK = _READ | {"POST"}
# To an answer that repeats the request, or a tunnel: either would hold the engine's own key.
_NEVER = frozenset({"TRACE", "CONNECT"})
# No `%`: an engine would read it as another path than the one that was checked.
_BY_ID = re.compile(
    "|".join(path.replace("{id}", r"[A-Za-z0-9_-][A-Za-z0-9_.-]*") for path in INFERENCE_BY_ID)
)


class Access(Enum):
    """Who may send a request to a path of an engine."""

    INFERENCE = "inference"  # any good key for the model
    ADMIN = "admin"
    CLOSED = "closed"  # nobody


class EnginePaths:
    """The lists above and what an operator has opened."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        """Open `allowed` to admin keys: exact paths, or prefixes that end in `/*`."""
        self._allowed = frozenset(path for path in allowed if not path.endswith("/*"))
        self._prefixes = tuple(path[:-1] for path in allowed if path.endswith("/*"))

    def access(self, path: str, method: str) -> Access:
        """Return who may send `method` to `path`.

        Args:
            path: as it is sent, without the query.
            method: in capitals, as HTTP has it; another spelling is another method.
        """
        if method in _NEVER:
            return Access.CLOSED
        if path in INFERENCE or (path not in CLOSED and _BY_ID.fullmatch(path)):
            # vLLM has no other methods here. One that a newer version has would change something.
            return Access.INFERENCE if method in _ASK else Access.ADMIN
        if path in ADMIN and method in _READ:
            return Access.ADMIN
        # What the operator has named was looked at by the operator: any method.
        if path in self._allowed or path.startswith(self._prefixes):
            return Access.ADMIN
        return Access.CLOSED
