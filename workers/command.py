"""What an engine is started with: its command line and its environment, made from scratch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from shared.domain import params
from shared.domain.instance import Instance
from shared.settings import Settings
from workers.process_tree import ID_MARK, RUN_DIR_MARK


def command(instance: Instance, port: int, settings: Settings) -> list[str]:
    """Return the words that start the engine of `instance`; no shell reads them."""
    served = {"served_model_name": list(params.served_names(instance.model_name, instance.params))}
    rest = {name: value for name, value in instance.params.items() if name != "served_model_name"}
    return [
        *settings.vllm_command,
        "serve",
        str(model_folder(instance.model_name, settings.models_dir) or instance.model_name),
        f"--host={settings.node_address}",
        f"--port={port}",
        *params.render(served),
        *params.render(rest),
    ]


def model_folder(model_name: str, models_dir: Path) -> Path | None:
    """Return the folder that holds the model on this node; None if it is a name on the hub."""
    folder = models_dir / model_name  # an absolute model_name stays itself
    return folder if folder.is_dir() else None


def environment(instance: Instance, key: str, settings: Settings) -> dict[str, str]:
    """Return the engine's whole environment.

    The worker's own is not inherited: it holds the fleet's VLLM_* settings, and vLLM reads some
    of those names.
    """
    env = dict(settings.inherited_env)
    program = Path(settings.vllm_command[0])
    if program.is_absolute():  # its own tools first: vLLM calls ninja and its like by name
        env["PATH"] = os.pathsep.join([str(program.parent), env.get("PATH", os.defpath)])
    env |= _named(settings)
    if model_folder(instance.model_name, settings.models_dir):
        env["HF_HUB_OFFLINE"] = "1"
    env |= {name: value for name, value in _engine_env(settings.engine_env_file).items() if value}
    env |= instance.env  # held to VLLM_ALLOWED_ENV, so none of what follows, and no secret
    if instance.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(instance.gpus)
    return env | {
        "VLLM_API_KEY": key,
        ID_MARK: instance.instance_id,
        RUN_DIR_MARK: str(settings.run_dir.resolve()),
        "FLEET_GENERATION": str(instance.generation),
    }


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
