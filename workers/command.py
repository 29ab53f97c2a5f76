"""What an engine is started with: its command line and its environment, made from scratch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from shared.domain.command_line import engine_words
from shared.domain.instance import Instance
from shared.domain.node import real
from shared.settings import Settings
from workers.process_tree import ID_MARK, RUN_DIR_MARK


def command(instance: Instance, port: int, settings: Settings) -> list[str]:
    """Return the words that start the engine of `instance`; no shell reads them."""
    return engine_words(
        settings.vllm_command,
        str(model_folder(instance.model_name, settings.models_dir) or instance.model_name),
        host=settings.node_address,
        port=port,
        model_name=instance.model_name,
        merged=instance.params,
    )


def model_folder(model_name: str, models_dir: Path) -> Path | None:
    """Return the folder that holds the model on this node; None if it is a name on the hub."""
    folder = models_dir / model_name  # an absolute model_name stays itself
    return folder if folder.is_dir() else None


def environment(instance: Instance, key: str, settings: Settings) -> dict[str, str]:
    """Return the engine's whole environment.

    The worker's own is not inherited: it holds the fleet's VLLM_* settings, and vLLM reads some
    of those names.
    """
    offline = {"HF_HUB_OFFLINE": "1"}
    folder = model_folder(instance.model_name, settings.models_dir)
    env = node_environment(settings, offline if folder else {})
    env |= instance.env  # held to VLLM_ALLOWED_ENV, so none of what follows, and no secret
    if devices := real(instance.gpus):
        env["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    return env | {
        "VLLM_API_KEY": key,
        ID_MARK: instance.instance_id,
        RUN_DIR_MARK: str(settings.run_dir.resolve()),
        "FLEET_GENERATION": str(instance.generation),
    }


def node_environment(settings: Settings, of_model: dict[str, str] | None = None) -> dict[str, str]:
    """Return what all engines of this node have in their environment.

    Args:
        settings: of this node.
        of_model: what a model needs besides; the operator's own word, in ENGINE_ENV_FILE, wins.
    """
    env = dict(settings.inherited_env)
    program = Path(settings.vllm_command[0])
    if program.is_absolute():  # its own tools first: vLLM calls ninja and its like by name
        env["PATH"] = os.pathsep.join([str(program.parent), env.get("PATH", os.defpath)])
    env |= _named(settings)
    return (
        env
        | (of_model or {})
        | {name: value for name, value in _engine_env(settings.engine_env_file).items() if value}
    )


def _engine_env(path: Path) -> Mapping[str, str | None]:
    return dotenv_values(path, interpolate=False)  # ${NAME} would let our own environment in


def _named(settings: Settings) -> Mapping[str, str]:
    given = {
        "HF_ENDPOINT": settings.hf_endpoint,
        "HF_HOME": settings.hf_home,
        "HF_TOKEN": settings.hf_token,
        "HTTP_PROXY": settings.http_proxy,
        "HTTPS_PROXY": settings.https_proxy,
    }
    return {name: value for name, value in given.items() if value}
