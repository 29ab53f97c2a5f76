"""Environment variables that a request may give its engine: a list, and what no list can open."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from shared.errors import InvalidRequest

NEVER = (
    # what the fleet gives itself
    "FLEET_*", "VLLM_API_KEY", "VLLM_HOST_IP", "VLLM_PORT", "VLLM_LOOPBACK_IP",
    "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES", "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE",
    "PATH", "HOME", "USER", "SHELL", "TMPDIR", "PWD",
    # code
    "LD_*", "PYTHON*", "BASH_ENV", "ENV", "IFS", "CC", "CXX", "NVCC*", "*_HOME", "*PRELOAD*",
    "*PLUGIN*", "*LIBRAR*", "*_CLS", "*_MODULE", "OPENSSL_*", "*FLAGS", "GIT_*",
    "VLLM_ALLOW_INSECURE_SERIALIZATION",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_SERVER_DEV_MODE", "VLLM_USE_RUST_*",
    "VLLM_MEDIA_CONNECTOR", "VLLM_TEST_FORCE_LOAD_FORMAT", "VLLM_SKIP_MODEL_NAME_VALIDATION",
    # files
    "*_PATH", "*_PATHS", "*_DIR", "*_DIRS", "*_ROOT", "*_FOLDER", "*_FILE", "*_FILES",
    "*_CACHE", "*_LOG_CONFIG*", "*CONFIGDIR", "TORCH_LOGS_OUT", "TORCH_TRACE",
    "VLLM_CONFIG_*", "VLLM_TRACE_FUNCTION", "GCONV_*", "LOCPATH",
    # addresses
    "*_PROXY", "*_URL", "*_URI", "*_ENDPOINT*", "*_HOST", "*_IP", "*_PORT", "HF_*",
    "HUGGINGFACE_*", "TRANSFORMERS_*", "VLLM_USE_MODELSCOPE", "S3_*", "AWS_*", "VLLM_RAY_*",
    "RAY_*", "SSL_*", "REQUESTS_*", "CURL_*", "VLLM_MEDIA_URL_*", "VLLM_NIC_*",
)  # fmt: skip
"""What no setting opens to requests: case does not matter. An operator has ENGINE_ENV_FILE."""

SECRET_NAME = re.compile(r"TOKEN(?!IZER)|KEY|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
"""How a variable's name tells that it holds a secret."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_MAX_VARIABLES = 64
_MAX_VALUE_CHARS = 4_096


def checked_env(env: Mapping[str, object], *, field: str) -> dict[str, str]:
    """Return the variables of a request as what they must be: short printable strings by name.

    Raises:
        InvalidRequest: names the variable, what was wrong and what would be right.
    """
    if len(env) > _MAX_VARIABLES:
        raise InvalidRequest(
            f"{field}: {len(env)} variables; at most {_MAX_VARIABLES}", field=field
        )
    result: dict[str, str] = {}
    for name, value in env.items():
        where = f"{field}.{name}"
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f"{where}: not the name of a variable", field=where)
        if not isinstance(value, str):
            raise InvalidRequest(f'{where}: must be a string, like "1"', field=where)
        if len(value) > _MAX_VALUE_CHARS or not value.isprintable():
            raise InvalidRequest(
                f"{where}: must be at most {_MAX_VALUE_CHARS} printable characters", field=where
            )
        result[name] = value
    return result


def refuse_env(env: Mapping[str, str], *, allowed: Sequence[str], field: str) -> None:
    """Refuse variables that a request may not give an engine.

    Args:
        env: as `checked_env` returns it.
        allowed: globs of names; case matters.
        field: where they stood, for messages.

    Raises:
        InvalidRequest: names the variable and why.
    """
    for name in env:
        where = f"{field}.{name}"
        if SECRET_NAME.search(name):
            raise InvalidRequest(
                f"{where}: looks like a secret, and records show env; an operator sets it in "
                "ENGINE_ENV_FILE",
                field=where,
            )
        if any(fnmatchcase(name.upper(), glob) for glob in NEVER):
            raise InvalidRequest(
                f"{where}: is never open to requests: it can name code, files or addresses, or is "
                "the fleet's own; an operator sets it in ENGINE_ENV_FILE",
                field=where,
            )
        if not any(fnmatchcase(name, glob) for glob in allowed):
            raise InvalidRequest(
                f"{where}: not in VLLM_ALLOWED_ENV, which allows {', '.join(allowed)}", field=where
            )
