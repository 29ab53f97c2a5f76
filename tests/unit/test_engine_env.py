"""Environment variables of a request: a list, and what no list can open."""

from __future__ import annotations

import pytest

from shared.domain.engine_env import refuse_env
from shared.errors import InvalidRequest
from tests.builders import settings

BY_DEFAULT = settings().vllm_allowed_env


@pytest.mark.parametrize("name", BY_DEFAULT)
def test_what_the_default_lists_can_be_given(name: str) -> None:
    refuse_env({name: "1"}, allowed=BY_DEFAULT, field="env")


def test_what_is_not_listed_is_refused_with_the_list() -> None:
    with pytest.raises(
        InvalidRequest, match=r"^env\.VLLM_X: not in VLLM_ALLOWED_ENV, which allows A, B"
    ):
        refuse_env({"VLLM_X": "1"}, allowed=("A", "B*"), field="env")


@pytest.mark.parametrize(
    "name",
    [
        "VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_PORT", "VLLM_HOST_IP",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_PLUGINS", "VLLM_LOGGING_CONFIG_PATH",
        "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH", "VLLM_USE_RUST_FRONTEND", "VLLM_RUST_FRONTEND_PATH",
        "VLLM_NCCL_SO_PATH", "VLLM_CUDART_SO_PATH", "VLLM_DEBUG_DUMP_PATH", "VLLM_CONFIG_ROOT",
        "VLLM_CACHE_ROOT", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP",
        "PYTHONOPTIMIZE", "NCCL_TOPO_FILE", "NCCL_CONF_FILE", "NCCL_NET_PLUGIN", "CUDA_HOME",
        "CUDA_VISIBLE_DEVICES", "HTTP_PROXY", "https_proxy", "no_proxy", "HF_ENDPOINT", "HF_HOME",
        "FLEET_INSTANCE_ID", "PATH", "HOME", "OMP_TOOL_LIBRARIES", "TMPDIR", "BASH_ENV", "CC",
        "VLLM_MODEL_REDIRECT_PATH", "VLLM_TUNED_CONFIG_FOLDER", "VLLM_ASSETS_CACHE", "ld_preload",
        "TRITON_CACHE_DIR", "VLLM_USAGE_STATS_SERVER_URL", "VLLM_MEDIA_URL_ALLOW_REDIRECTS",
        "OPENSSL_CONF", "OPENSSL_MODULES", "LDFLAGS", "MAKEFLAGS", "GIT_SSH_COMMAND",
        "MPLCONFIGDIR", "TORCH_TRACE",
    ],
)  # fmt: skip
def test_some_are_open_to_no_request_whatever_is_listed(name: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^env\.{name}: is never open to requests"):
        refuse_env({name: "1"}, allowed=("*",), field="env")


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "VLLM_API_KEY", "AWS_SECRET_ACCESS_KEY", "my_token", "REDIS_PASSWORD", "PASSWD"],
)
def test_what_looks_like_a_secret_is_refused_for_records_show_env(name: str) -> None:
    with pytest.raises(InvalidRequest, match="looks like a secret"):
        refuse_env({name: "1"}, allowed=("*",), field="env")


def test_a_tokenizer_is_no_token() -> None:
    refuse_env({"TOKENIZERS_PARALLELISM": "false"}, allowed=("*",), field="env")
