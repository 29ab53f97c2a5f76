"""What an engine is started with: exact words, and an environment from scratch."""

import os
from pathlib import Path
from typing import Any

import pytest

from shared.domain.instance import Instance
from shared.settings import ROOT, Settings
from tests import builders
from tests.builders import settings
from workers.command import command, environment, model_folder

FLEETS_OWN = {"VLLM_BASE_PORT": "9100", "VLLM_MAX_INSTANCES": "3", "VLLM_DEFAULT_DTYPE": "auto"}


def an_instance(**changes: Any) -> Instance:
    """Return an instance of `org/smol`, with `changes`."""
    named = {"instance_id": "smol-aaaa2222", "model_name": "org/smol"}
    return builders.an_instance(**named | changes)


def node_settings(tmp_path: Path, **env: str) -> Settings:
    """Return settings with an empty folder of models and an empty engine.env."""
    (tmp_path / "engine.env").touch()
    own = {
        "MODELS_DIR": str(tmp_path / "models"),
        "ENGINE_ENV_FILE": str(tmp_path / "engine.env"),
        "VLLM_COMMAND": "/opt/vllm/bin/vllm",
        "PATH": "/usr/bin",
        "HOME": "/home/fleet",
    }
    return settings(**own | env)


def test_the_words_of_a_command(tmp_path: Path) -> None:
    instance = an_instance(params={"max_model_len": 4096, "enforce_eager": True, "seed": 0})
    assert command(instance, 9003, node_settings(tmp_path)) == [
        "/opt/vllm/bin/vllm",
        "serve",
        "org/smol",
        "--host=127.0.0.1",
        "--port=9003",
        "--served-model-name=org/smol",
        "--max-model-len=4096",
        "--enforce-eager",
        "--seed=0",
    ]


def test_the_command_may_have_several_words(tmp_path: Path) -> None:
    words = command(an_instance(), 9000, node_settings(tmp_path, VLLM_COMMAND="python3 -m 'a b'"))
    assert words[:4] == ["python3", "-m", "a b", "serve"]


def test_served_names_are_given_once(tmp_path: Path) -> None:
    instance = an_instance(params={"served_model_name": ["a", "b"]})
    words = command(instance, 9000, node_settings(tmp_path))
    assert words[5:] == ["--served-model-name", "a", "b"]


def test_no_shell_reads_a_value(tmp_path: Path) -> None:
    instance = an_instance(params={"chat_template": "$(id) 'x' \"y\"\n; z"})
    words = command(instance, 9000, node_settings(tmp_path))
    assert words[-1] == "--chat-template=$(id) 'x' \"y\"\n; z"


def test_a_model_in_models_dir_is_served_from_there_under_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "org" / "smol"
    folder.mkdir(parents=True)
    words = command(an_instance(), 9000, node_settings(tmp_path))
    assert (words[2], words[5]) == (str(folder), "--served-model-name=org/smol")


def test_an_absolute_model_name_is_itself(tmp_path: Path) -> None:
    assert model_folder(str(tmp_path), Path("/models")) == tmp_path


def test_a_file_is_no_model_folder(tmp_path: Path) -> None:
    (tmp_path / "m").touch()
    assert model_folder("m", tmp_path) is None


def test_the_whole_environment(tmp_path: Path) -> None:
    found = environment(an_instance(generation=2), "key", node_settings(tmp_path))
    assert found == {
        "PATH": f"/opt/vllm/bin{os.pathsep}/usr/bin",
        "HOME": "/home/fleet",
        "VLLM_API_KEY": "key",
        "FLEET_INSTANCE_ID": "smol-aaaa2222",
        "FLEET_GENERATION": "2",
        "FLEET_RUN_DIR": str(ROOT / ".run"),
    }


def test_the_fleets_own_settings_stay_out_of_the_environment(tmp_path: Path) -> None:
    found = environment(an_instance(), "key", node_settings(tmp_path, **FLEETS_OWN))
    assert not found.keys() & FLEETS_OWN.keys()


def test_a_program_by_name_keeps_the_path_as_it_is(tmp_path: Path) -> None:
    found = environment(an_instance(), "key", node_settings(tmp_path, VLLM_COMMAND="vllm"))
    assert found["PATH"] == "/usr/bin"


def test_a_local_model_is_loaded_without_the_hub(tmp_path: Path) -> None:
    (tmp_path / "models" / "org" / "smol").mkdir(parents=True)
    assert environment(an_instance(), "k", node_settings(tmp_path))["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    "name", ["HF_ENDPOINT", "HF_HOME", "HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY"]
)
def test_what_engines_need_of_the_network_is_passed_on(name: str, tmp_path: Path) -> None:
    assert environment(an_instance(), "k", node_settings(tmp_path, **{name: "v"}))[name] == "v"


def test_gpus_are_given_by_uuid(tmp_path: Path) -> None:
    instance = an_instance(gpus=("GPU-2", "GPU-3"))
    found = environment(instance, "k", node_settings(tmp_path))
    assert found["CUDA_VISIBLE_DEVICES"] == "GPU-2,GPU-3"


def test_simulated_gpus_are_not_given(tmp_path: Path) -> None:
    instance = an_instance(gpus=("SIM-one-0", "SIM-one-1"))
    assert "CUDA_VISIBLE_DEVICES" not in environment(instance, "k", node_settings(tmp_path))


def test_engine_env_is_passed_on(tmp_path: Path) -> None:
    node = node_settings(tmp_path, HF_HOME="/a")
    node.engine_env_file.write_text("VLLM_CPU_KVCACHE_SPACE=1\nHF_HOME=/b\nEMPTY=\n")
    found = environment(an_instance(), "k", node)
    assert (found["VLLM_CPU_KVCACHE_SPACE"], found["HF_HOME"], "EMPTY" in found) == (
        "1",
        "/b",
        False,
    )


def test_engine_env_cannot_take_the_key_or_the_mark(tmp_path: Path) -> None:
    node = node_settings(tmp_path)
    node.engine_env_file.write_text("VLLM_API_KEY=x\nFLEET_INSTANCE_ID=x\n")
    found = environment(an_instance(), "key", node)
    assert (found["VLLM_API_KEY"], found["FLEET_INSTANCE_ID"]) == ("key", "smol-aaaa2222")


def test_engine_env_does_not_pass_on_the_workers_own_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKERS_SECRET", "hush")
    node = node_settings(tmp_path)
    node.engine_env_file.write_text("A=1\n")
    assert "hush" not in environment(an_instance(), "k", node).values()


def test_a_missing_engine_env_is_an_empty_one(tmp_path: Path) -> None:
    node = node_settings(tmp_path)
    node.engine_env_file.unlink()
    assert environment(an_instance(), "k", node)["VLLM_API_KEY"] == "k"
