"""A download is seen by the files it leaves: vLLM says nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.downloads import downloaded, hub_folder
from workers.loading import Loading
from workers.stages import Load

MIB = 2**20
SERVE = ["/engine/bin/vllm", "serve", "org/model", "--port=9000"]


@pytest.mark.parametrize(
    ("words", "env", "folder"),
    [
        ([], {"HOME": "/home/me"}, "/home/me/.cache/huggingface/hub/models--org--model"),
        ([], {"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub/models--org--model"),
        ([], {"HOME": "/h", "HF_HOME": "/hf"}, "/hf/hub/models--org--model"),
        ([], {"HF_HOME": "/hf", "HF_HUB_CACHE": "/cache"}, "/cache/models--org--model"),
        (["--download-dir=/big"], {"HF_HOME": "/hf"}, "/big/models--org--model"),
    ],
)
def test_where_the_hub_keeps_a_model(words: list[str], env: dict[str, str], folder: str) -> None:
    assert hub_folder([*SERVE, *words], env) == Path(folder)


@pytest.mark.parametrize("model", ["/models/a", "./a", "s3://bucket/a"])
def test_a_model_of_the_nodes_own_is_not_downloaded(model: str) -> None:
    assert hub_folder(["vllm", "serve", model], {"HOME": "/h"}) is None


def test_half_files_count(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / "aa").write_bytes(b"x" * 100)
    (blobs / "bb.incomplete").write_bytes(b"x" * 50)
    assert downloaded(tmp_path) == 150


def test_what_was_never_downloaded_is_nothing(tmp_path: Path) -> None:
    assert downloaded(tmp_path / "none") == 0


def test_a_download_is_a_stage_and_each_mebibyte_is_progress() -> None:
    loading = Loading(Load("initialize"))
    assert not loading.downloaded(7 * MIB, 1.0)  # was there before
    assert loading.downloaded(19 * MIB, 2.0)
    assert (loading.load.stage, loading.load.detail) == ("download", "12 MiB")
    assert not loading.downloaded(19 * MIB, 700.0)
    assert loading.downloaded(7 * MIB + 3 * 2**30, 701.0)
    assert loading.load.detail == "3.0 GiB"


def test_a_download_beside_a_load_is_none() -> None:
    loading = Loading(Load("weights", 0.5, "1/2"))
    loading.downloaded(0, 1.0)
    assert not loading.downloaded(50 * MIB, 2.0)


def test_a_bar_in_the_log_says_more() -> None:
    loading = Loading(Load("download", 0.37, "1.85G/4.98G"))
    loading.downloaded(0, 1.0)
    loading.downloaded(2 * 2**30, 2.0)
    assert loading.load.detail == "1.85G/4.98G"
