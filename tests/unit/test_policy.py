"""The operator's word on specs, as the web tier asks it and as a worker asks again."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.params import merge
from shared.domain.policy import Policy
from shared.domain.vllm_flags import OBJECTS, VALUES
from shared.errors import InvalidRequest, SettingsError
from shared.policy import base_params, policy
from tests import builders
from workers.admission import refuse_unsafe_spec


def a_policy(tmp_path: Path, base: dict[str, Any] | None = None, **env: str) -> Policy:
    """Return the policy of these settings, with `base` in VLLM_CONFIG."""
    config = tmp_path / "vllm_config.json"
    config.write_text(json.dumps(base or {}))
    return policy(builders.settings(VLLM_CONFIG=str(config), **env))


def test_a_harmless_spec_passes(tmp_path: Path) -> None:
    found = a_policy(tmp_path)
    found.check("org/m", {"max_model_len": 1}, {"OMP_NUM_THREADS": "2"})


@pytest.mark.parametrize(
    ("model_name", "params", "env", "field"),
    [
        ("/etc/passwd", {}, {}, "model_name"),
        ("--port=1", {}, {}, "model_name"),
        ("org/m", {"worker_cls": "a.B"}, {}, "params.worker_cls"),
        ("org/m", {"port": 1}, {}, "params.port"),
        ("org/m", {"tokenizer": "/etc"}, {}, "params.tokenizer"),
        ("org/m", {"speculative_config": {"model": "/etc"}}, {}, "params.speculative_config"),
        ("org/m", {"lora_modules": ["a=/etc"]}, {}, "params.lora_modules"),
        ("org/m", {"hf_config_path": "~/x"}, {}, "params.hf_config_path"),
        ("org/m", {}, {"LD_PRELOAD": "x"}, "env.LD_PRELOAD"),
        ("org/m", {}, {"OMP_NUM_THREADS": 1}, "env.OMP_NUM_THREADS"),
    ],
)
def test_what_is_refused_names_its_field(
    tmp_path: Path, model_name: str, params: dict[str, Any], env: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field}: ") as raised:
        a_policy(tmp_path).check(model_name, params, env)
    assert raised.value.field == field


def test_allowed_models_hold_for_everything_that_names_one(tmp_path: Path) -> None:
    found = a_policy(tmp_path, VLLM_ALLOWED_MODELS="good/*, fine/*")
    found.check("good/m", {"tokenizer": "fine/t"}, {})
    for params in ({"tokenizer": "bad/t"}, {"speculative_config.model": "bad/d"}):
        with pytest.raises(InvalidRequest, match=r"VLLM_ALLOWED_MODELS allows good/\*, fine/\*"):
            found.check("good/m", params, {})


@pytest.mark.parametrize(
    "params",
    [
        {"revision": "refs/pr/1"},
        {"tokenizer_revision": "main"},
        {"code-rev": "0123abc"},
        {"speculative_config": {"model": "good/d", "revision": "refs/pr/1"}},
        {"-sc.code_revision": "refs/pr/1"},
    ],
)
def test_revisions_are_the_operators_where_not_all_models_are_allowed(
    tmp_path: Path, params: dict[str, Any]
) -> None:
    refused = a_policy(tmp_path, VLLM_ALLOWED_MODELS="good/*")
    with pytest.raises(InvalidRequest, match=r"pull request.*VLLM_UNSAFE_PARAMS"):
        refused.check("good/m", params, {})
    a_policy(tmp_path).check("good/m", params, {})


def test_an_operator_pins_or_opens_revisions(tmp_path: Path) -> None:
    pinned = a_policy(tmp_path, {"revision": "abc"}, VLLM_ALLOWED_MODELS="good/*")
    pinned.check("good/m", merge(pinned.base, {"seed": 1}), {})
    opened = a_policy(tmp_path, VLLM_ALLOWED_MODELS="good/*", VLLM_UNSAFE_PARAMS="revision")
    opened.check("good/m", {"revision": "v2", "tokenizer_revision": None}, {})


def test_the_operators_own_word_is_trusted_and_only_that(tmp_path: Path) -> None:
    own = {
        "kv_transfer_config": {"kv_connector": "X"},
        "chat_template": "/srv/t.jinja",
        "tokenizer": "/t",
    }
    found = a_policy(tmp_path, own)
    found.check("org/m", merge(found.base, {"seed": 1}), {})
    with pytest.raises(InvalidRequest, match=r"params\.kv_transfer_config"):
        found.check("org/m", {"kv_transfer_config": {"kv_connector": "Y"}}, {})
    with pytest.raises(InvalidRequest, match=r"params\.kv_transfer_config"):
        found.check("org/m", {"kv_transfer_config": None}, {})
    with pytest.raises(InvalidRequest, match=r"params\.kv_transfer_config"):
        found.check("org/m", {"kv_transfer_config.kv_connector": "X"}, {})


def test_the_operator_may_not_set_what_the_fleet_owns_either(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="the fleet owns port"):
        a_policy(tmp_path, {"port": 1})


@pytest.mark.parametrize(
    ("env", "allowed"),
    [
        ({}, True),
        ({"VLLM_DEFAULT_TRUST_REMOTE_CODE": "false"}, False),
        (
            {"VLLM_DEFAULT_TRUST_REMOTE_CODE": "false", "VLLM_UNSAFE_PARAMS": "trust-remote-code"},
            True,
        ),
    ],
)
def test_a_request_may_trust_a_models_code_where_the_operator_does(
    tmp_path: Path, env: dict[str, str], *, allowed: bool
) -> None:
    found = a_policy(tmp_path, None, **env)
    found.check("org/m", {"trust_remote_code": False}, {})
    if allowed:
        found.check("org/m", {"trust_remote_code": True}, {})
    else:
        with pytest.raises(InvalidRequest, match="VLLM_UNSAFE_PARAMS=trust_remote_code"):
            found.check("org/m", {"trust_remote_code": True}, {})


def test_unsafe_params_are_opened_in_any_spelling(tmp_path: Path) -> None:
    found = a_policy(tmp_path, VLLM_UNSAFE_PARAMS="worker-cls, --load-format -cc")
    assert found.opened == {"worker_cls", "load_format", "compilation_config"}
    found.check("org/m", {"worker_cls": "a.B", "load_format": "pt"}, {})


@pytest.mark.parametrize("names", ["port", "api_key", "no such", "a=b"])
def test_what_cannot_be_opened_is_a_wrong_setting(tmp_path: Path, names: str) -> None:
    with pytest.raises(SettingsError, match="VLLM_UNSAFE_PARAMS"):
        a_policy(tmp_path, VLLM_UNSAFE_PARAMS=names)


def test_every_instance_begins_with_the_defaults_and_the_file(tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text('{"seed": 1, "dtype": "half"}')
    found = base_params(builders.settings(VLLM_CONFIG=str(config)))
    assert found == {
        "kv_cache_dtype": "auto",
        "trust_remote_code": True,
        "seed": 1,
        "dtype": "half",
    }


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_NAMES = st.sampled_from(sorted(VALUES | set(OBJECTS))) | st.text()


@given(
    st.text(),
    st.dictionaries(_NAMES, _JSON | _JSON.map(json.dumps), max_size=3),
    st.dictionaries(st.text() | st.just("OMP_NUM_THREADS"), _JSON, max_size=2),
)
def test_any_spec_passes_or_is_refused(name: str, params: dict[str, Any], env: Any) -> None:
    """A node reads what stands in Redis: no error but a refusal may come of it."""
    with suppress(InvalidRequest):
        policy(builders.settings()).check(name, params, env, real=os.path.realpath)


# on the node


def test_a_node_follows_links_before_it_serves_a_folder(tmp_path: Path) -> None:
    models, outside = tmp_path / "models", tmp_path / "outside"
    (models / "plain").mkdir(parents=True)
    outside.mkdir()
    (models / "leak").symlink_to(outside)
    settings = builders.settings(MODELS_DIR=str(models))
    for name in ("plain", str(models / "plain"), "org/on-the-hub"):
        refuse_unsafe_spec(builders.an_instance(model_name=name), policy(settings), settings)
    for name in ("leak", str(models / "leak")):
        with pytest.raises(InvalidRequest, match=r"^model_name: .*outside the folders for models"):
            refuse_unsafe_spec(builders.an_instance(model_name=name), policy(settings), settings)
    wider = builders.settings(MODELS_DIR=str(models), VLLM_MODEL_ROOTS=f"{outside}{os.pathsep}/x")
    refuse_unsafe_spec(builders.an_instance(model_name="leak"), policy(wider), wider)


def test_models_dir_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "really" / "m").mkdir(parents=True)
    (tmp_path / "models").symlink_to(tmp_path / "really")
    settings = builders.settings(MODELS_DIR=str(tmp_path / "models"))
    for name in ("m", f"{tmp_path}/models/m", f"{tmp_path}/really/m"):
        refuse_unsafe_spec(builders.an_instance(model_name=name), policy(settings), settings)
