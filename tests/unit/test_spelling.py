"""The many ways to write a parameter's name, and the one that is kept."""

from __future__ import annotations

import pytest

from shared.domain.spelling import KNOWN, full_name, keys_of, normal_name, subject
from shared.errors import InvalidRequest


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("max-model-len", "max_model_len"),
        ("--max-model-len", "max_model_len"),
        ("max_model_len", "max_model_len"),
        ("hf-overrides.rope-scaling", "hf_overrides.rope-scaling"),
        ("kv-transfer-config.a_b.c-d+", "kv_transfer_config.a_b.c-d+"),
    ],
)
def test_a_name_has_one_normal_form_and_a_key_after_a_dot_stays_as_it_is(
    written: str, name: str
) -> None:
    assert normal_name(written) == name


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("-tp", "tensor_parallel_size"),
        ("-q", "quantization"),
        ("-O", "optimization_level"),
        ("-cc.mode", "compilation_config.mode"),
        ("-sc.model", "speculative_config.model"),
        ("-n", "nnodes"),
        ("device-memory-utilization", "gpu_memory_utilization"),
        ("--max-model", "max_model_len"),
        ("tensor", "tensor_parallel_size"),
        (
            "speculative.draft.load-format+",
            "speculative_config.draft.load-format+",
        ),
        ("no_trust_rem", "no_trust_remote_code"),
        ("no-worker-cl", "no_worker_cls"),
        ("brand_new", "brand_new"),
        ("no_brand_new", "no_brand_new"),
    ],
)
def test_every_spelling_becomes_the_full_name(written: str, name: str) -> None:
    assert full_name(written, "params") == name


@pytest.mark.parametrize(
    "written", ["s", "no", "enable-", "max_num_", "data_parallel_", "model"[:3]]
)
def test_the_beginning_of_several_is_refused_with_what_it_could_mean(written: str) -> None:
    with pytest.raises(InvalidRequest, match="could mean several parameters"):
        full_name(written, "params.x")


@pytest.mark.parametrize(
    "written",
    [
        "", "-", "--", "-t", "-xyz", "-O3", "---seed", "1st", "a b", "a=b", "a\n", "a\x00", "é",
        "a.", ".a", "a..b", "a++", "a;b", "a/b", "--a --b", "a+.b", "-tp-x", "--.a",
    ],
)  # fmt: skip
def test_what_is_no_name_of_a_flag_is_refused(written: str) -> None:
    with pytest.raises(InvalidRequest, match="not the name of a vLLM parameter") as raised:
        full_name(written, "params.x")
    assert raised.value.field == "params.x"


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_full_name_is_its_own(name: str) -> None:
    kept = full_name(name, "params")
    assert full_name(kept, "params") == kept == KNOWN[name]


def test_a_name_is_about_a_parameter_and_goes_on_with_keys() -> None:
    assert subject("no_enforce_eager") == "enforce_eager"
    assert subject("hf_overrides.a-b.c+") == "hf_overrides"
    assert keys_of("hf_overrides.a-b.c+") == ["a-b", "c"]
    assert keys_of("hf_overrides") == []
