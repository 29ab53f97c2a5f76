"""The operator's word on start parameters, from the settings and the VLLM_CONFIG file.

Both sides read it: the web tier for what instances begin with and what requests may ask, the
workers for asking again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from shared.domain import params
from shared.domain.models import ModelPolicy
from shared.domain.policy import Policy
from shared.domain.spelling import full_name, subject
from shared.errors import InvalidRequest, SettingsError
from shared.settings import Settings


def policy(settings: Settings) -> Policy:
    """Return what requests may ask for; reads VLLM_CONFIG and looks where model folders lie.

    Raises:
        SettingsError: VLLM_CONFIG cannot be used, or VLLM_UNSAFE_PARAMS names no parameter or one
            that the fleet owns.
    """
    folders = (settings.models_dir, *settings.vllm_model_roots)
    roots = {path(folder) for folder in folders for path in (os.path.normpath, os.path.realpath)}
    return Policy(
        base=base_params(settings),
        opened=_opened(settings.vllm_unsafe_params),
        models=ModelPolicy(allowed=settings.vllm_allowed_models, roots=tuple(sorted(roots))),
        allowed_env=settings.vllm_allowed_env,
    )


def base_params(settings: Settings) -> dict[str, object]:
    """Return what every instance begins with: the VLLM_DEFAULT_* settings, then VLLM_CONFIG.

    Raises:
        SettingsError: the file is missing, is not a JSON object, or names what the fleet owns.
    """
    defaults = {
        "dtype": settings.vllm_default_dtype,
        "kv_cache_dtype": settings.vllm_default_kv_cache_dtype,
        "trust_remote_code": settings.vllm_default_trust_remote_code,
    }
    return params.merge(defaults, _from_file(settings.vllm_config))


def _opened(names: tuple[str, ...]) -> frozenset[str]:
    try:
        params.checked(dict.fromkeys(names), field="VLLM_UNSAFE_PARAMS")
        return frozenset(subject(full_name(name, "VLLM_UNSAFE_PARAMS")) for name in names)
    except InvalidRequest as error:
        raise SettingsError([str(error)]) from error


def _from_file(path: Path) -> Mapping[str, object]:
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise SettingsError([f"VLLM_CONFIG={path}: must hold a JSON object"])
        return params.checked(found, field=path.name)
    except OSError as error:
        raise SettingsError([f"VLLM_CONFIG={path}: cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise SettingsError([f"VLLM_CONFIG={path}: not valid JSON: {error}"]) from error
    except InvalidRequest as error:
        raise SettingsError([f"VLLM_CONFIG={path}: {error}"]) from error
