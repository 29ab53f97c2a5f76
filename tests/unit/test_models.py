"""Which models may be served: by name, by folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.domain.models import ModelPolicy
from shared.errors import InvalidRequest


def check(name: str, *allowed: str, roots: tuple[str, ...] = ("/models",)) -> None:
    """Check a model against globs, all names by default."""
    ModelPolicy(allowed=allowed or ("*",), roots=roots).check(name, where="model_name")


@pytest.mark.parametrize(
    "name", ["org/m", "m", "/models", "/models/a/b", "/models//a", "org/m:Q4_K"]
)
def test_names_and_what_lies_under_a_root_are_allowed(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", ["/", "/etc/passwd", "/modelsx/a", "/models2", "//models/../etc"])
def test_what_lies_elsewhere_is_refused_with_the_roots(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^model_name: "):
        check(name)


@pytest.mark.parametrize(
    "name", ["../m", "a/../b", "~/m", "~", "./m", ".", "-m", " m", "m\n", "m\x00"]
)
def test_what_climbs_or_could_be_a_flag_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^model_name: "):
        check(name)


@pytest.mark.parametrize("name", ["s3://b/m", "http://h/m", "file:///etc", "gs://b/*"])
def test_a_url_needs_a_glob_of_its_own(name: str) -> None:
    with pytest.raises(InvalidRequest, match="VLLM_ALLOWED_MODELS allows"):
        check(name, "*", "org/*")
    check(name, name)


def test_globs_choose_names() -> None:
    check("Qwen/Qwen3-8B", "meta/*", "Qwen/Qwen3-*")
    for name in ("Qwen/Qwen2-8B", "qwen/Qwen3-8B", "xQwen/Qwen3-8B"):
        with pytest.raises(InvalidRequest, match=r"VLLM_ALLOWED_MODELS allows meta/\*, Qwen/"):
            check(name, "meta/*", "Qwen/Qwen3-*")


def test_a_glob_does_not_open_a_folder() -> None:
    with pytest.raises(InvalidRequest, match="outside the folders for models"):
        check("/etc/m", "/etc/*")


def test_a_link_is_judged_by_where_it_leads(tmp_path: Path) -> None:
    root, outside = tmp_path / "models", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    (root / "inner").symlink_to(root)
    policy = ModelPolicy(allowed=("*",), roots=(os.path.realpath(root),))
    policy.check(f"{root}/link", where="model_name")  # its text is all that the web tier sees
    policy.check(f"{root}/inner", where="model_name", real=os.path.realpath)
    with pytest.raises(InvalidRequest, match=f"leads to {os.path.realpath(outside)}, which lies"):
        policy.check(f"{root}/link", where="model_name", real=os.path.realpath)
