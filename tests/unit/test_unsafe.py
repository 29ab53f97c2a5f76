"""What a request may not set, in every spelling, and what passes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.domain.params import OWNED, checked
from shared.domain.unsafe import HARMLESS_KEYS, UNSAFE, models_named, refuse_unsafe
from shared.domain.vllm_flags import BOOLEANS, VALUES
from shared.errors import InvalidRequest
from shared.settings import ROOT


def refuse(
    params: dict[str, Any], opened: frozenset[str] = frozenset(), *, may_trust: bool = False
) -> None:
    """Check parameters as a request's."""
    found = checked(params, field="params")
    refuse_unsafe(found, opened=opened, may_trust=may_trust, field="params")


@pytest.mark.parametrize("name", sorted(UNSAFE))
@pytest.mark.parametrize("form", ["{}", "--{}", "no_{}", "{}.key", "{}.a.b", "{}+", "{}.key+"])
def test_an_unsafe_parameter_is_refused_in_every_form(name: str, form: str) -> None:
    with pytest.raises(InvalidRequest, match=f"VLLM_UNSAFE_PARAMS={name} ") as raised:
        refuse({form.format(name): "x"})
    assert str(raised.value.field).startswith("params.")
    assert UNSAFE[name] in str(raised.value)


@pytest.mark.parametrize("name", sorted(UNSAFE))
@pytest.mark.parametrize("value", [None, True, False, 1, "x", ["x"], {"a": 1}])
def test_it_is_refused_whatever_the_value_null_too(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match="refused in a request"):
        refuse({name: value})


@pytest.mark.parametrize("name", sorted(UNSAFE))
def test_an_operator_opens_it_by_name(name: str) -> None:
    refuse({name: "x"}, frozenset({name}))


@pytest.mark.parametrize(
    "written",
    [
        "middle", "worker-cl", "worker-ext", "-sc.middleware", "tool_parser", "logits", "kv_tr",
        "profiler", "no_enable-sleep", "log_conf", "allowed-loc", "otlp", "scheduler-c",
    ],
)  # fmt: skip
def test_a_beginning_of_its_name_is_refused(written: str) -> None:
    with pytest.raises(InvalidRequest, match="refused in a request"):
        refuse({written: "x"})


@pytest.mark.parametrize(
    "params",
    [
        # values that name code or files
        {"load_format": "pt"},
        {"load_format": "NPCACHE"},
        {"load_format": "tensorizer"},
        {"load-f": ["pt"]},
        {"distributed_executor_backend": "os.system"},
        {"attention_backend": "my.module.Backend"},
        {"mm_encoder_attn_backend": "a/b"},
        {"chat_template": "/etc/passwd"},
        {"chat_template": "template.jinja"},
        {"chat_template": "/srv/{{x}}"},
        {"chat_template": "../{{x}}"},
        {"chat_template": "./{% x %}"},
        {"tool_call_parser": "/srv/x.py"},
        {"reasoning_parser": "a.b"},
        {"spec_method": "custom_class"},
        {"spec_model": "os.path"},
        {"uvicorn_log_level": "trace"},
        # keys of objects, however they are written
        {"speculative_config": {"method": "custom_class"}},
        {"speculative_config": '{"method": "custom_class"}'},
        {"speculative_config": ['{"method": "custom_class"}']},
        {"-sc.method": "custom_class"},
        {"speculative.method": '"custom_class"'},
        {"speculative.method.a": ['"custom_class"']},
        {"speculative_config": {"model": "os.path", "num_speculative_tokens": 1}},
        {"speculative_config": {"method": None, "model": "a.b.C"}},
        {"speculative_config.model": '"a.b"'},
        {"speculative_config": {"draft_load_config": {"load_format": "pt"}}},
        {"speculative_config.draft_load_config": '{"load_format": "pt"}'},
        {"speculative_config.draft_load_config.load-format": "pt"},
        {"speculative_config.draft_load_config.download_dir": "x"},
        {"structured_outputs_config": {"reasoning_parser_plugin": "/srv/x.py"}},
        {"structured_outputs_config.reasoning_parser_plugin": "x"},
        {"attention_config": {"backend": "a.b"}},
        {"attention_config.backend_per_kind": {"x": "a.b"}},
        {"hf_overrides": {"auto_map": {"AutoModel": "x--y"}}},
        {"hf_overrides": {"a": [{"b": {"c_path": "/x"}}]}},
        {"hf_overrides": {"vision_config": {"_attn_implementation": "org/kernel"}}},
        {"mm_processor_kwargs": {"trust_remote_code": True}},
        {"compilation_config": {"backend": "a.b"}},
        {"compilation_config": {"pass_config": {"dump_path": "x"}}},
        {"compilation_config": "a.b"},
        {"-cc.inductor_passes.x": "os.system"},
        {"-cc.debug_dump_path": "/x"},
        # what another vLLM may have
        {"new_worker_cls": "x"},
        {"new_plugin": "x"},
        {"some_file": "x"},
        {"brand_new": {"worker_cls": "x"}},
        {"brand_new": '{"worker_cls": "x"}'},
        # the model's own code
        {"trust_remote_code": True},
        {"trust_remote_code": "true"},
        {"no_trust_remote_code": False},
        {"trust_remote": True},
    ],
)
def test_what_names_code_or_files_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"^params\..*: refused in a request"):
        refuse(params)


@pytest.mark.parametrize(
    "params",
    [
        {"max_model_len": 4096, "enforce_eager": True, "seed": None, "dtype": "auto"},
        {"load_format": "safetensors"},
        {"load_format": None},
        {"distributed_executor_backend": "mp"},
        {"attention_backend": "FLASH_ATTN"},
        {"chat_template": "{% for m in messages %}{{ m }}</s>{% endfor %}"},
        {"chat_template": "<s>\n{{ x }}"},
        {"tool_call_parser": "qwen3_coder", "enable_auto_tool_choice": True},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}},
        {"speculative_config": {"model": "org/draft", "attention_backend": "FLASH_ATTN"}},
        {
            "compilation_config": {
                "cudagraph_mode": "PIECEWISE",
                "pass_config": {"eliminate_noops": True},
            }
        },
        {"compilation_config.mode": 3, "-O": 1},
        {"hf_overrides": {"rope_parameters": {"rope_type": "yarn"}, "architectures": ["X"]}},
        {"override_generation_config": {"temperature": 0.1}},
        {"default_chat_template_kwargs": {"enable_thinking": False}},
        {"limit_mm_per_prompt": {"image": 2}},
        {"lora_modules": ["a=org/lora"], "enable_lora": True},
        {"trust_remote_code": False},
        {"trust_remote_code": None},
        {"no_trust_remote_code": True},
        {"brand_new_switch": True, "crash_after": 2.0, "token_gap": 1},
        {"hf_overrides": {"pad_token": "x", "image_token_id": 7}},
    ],
)
def test_all_else_passes(params: dict[str, Any]) -> None:
    refuse(params)


def test_a_request_may_trust_where_the_operator_does() -> None:
    refuse({"trust_remote_code": True}, may_trust=True)
    refuse({"mm_processor_kwargs.trust_remote_code": True}, may_trust=True)


def test_what_is_opened_is_open_inside_too() -> None:
    refuse({"compilation_config.backend": "a.b"}, frozenset({"compilation_config"}))


def test_the_message_names_the_key_inside_and_how_to_allow_it() -> None:
    with pytest.raises(InvalidRequest) as raised:
        refuse({"speculative_config": {"draft_load_config": {"load_format": "pt"}}})
    assert str(raised.value) == (
        "params.speculative_config: refused in a request (load_format inside it): it can name code "
        "or a file: 'pt'; an operator allows it with VLLM_UNSAFE_PARAMS=speculative_config or sets "
        "it in VLLM_CONFIG"
    )


@pytest.mark.parametrize(
    ("params", "models"),
    [
        ({"tokenizer": "org/t"}, ["org/t"]),
        ({"tokenizer": None}, []),
        ({"hf_config_path": "/etc"}, ["/etc"]),
        ({"generation_config": "vllm"}, []),
        ({"generation_config": "/x"}, ["/x"]),
        ({"spec_model": "org/d"}, ["org/d"]),
        ({"speculative_config": {"model": "org/d"}}, ["org/d"]),
        ({"speculative_config.model": "org/d"}, ["org/d"]),
        ({"speculative_config.model": '"org/d"'}, ["org/d"]),
        ({"hf_overrides": {"text_model_id": "x", "vision": {"name_or_path": "/y"}}}, ["x", "/y"]),
        ({"lora_modules": ["a=/x", {"name": "b", "path": "org/y"}]}, ["/x", "org/y"]),
        ({"lora_modules": json.dumps({"name": "b", "path": "/z"})}, ["/z"]),
        ({"tokenizer": '"/etc"'}, ['"/etc"', "/etc"]),
        ({"default_mm_loras": {"audio": "/x"}}, ["/x"]),
        ({"served_model_name": "/x", "revision": "main"}, []),
    ],
)  # fmt: skip
def test_what_names_a_model_is_found(params: dict[str, Any], models: list[str]) -> None:
    found = checked(params, field="params").items()
    assert [model for name, value in found for model in models_named(name, value)] == models


def test_the_documentation_names_every_one() -> None:
    text = (ROOT / "docs/parameters.md").read_text()
    keys = {key for keys in HARMLESS_KEYS.values() for key in keys}
    assert [name for name in {*UNSAFE, *HARMLESS_KEYS, *keys} if f"`{name}`" not in text] == []


def test_the_lists_name_parameters_in_normal_form_and_no_owned_ones() -> None:
    elsewhere = {"watchdog_config"}  # of newer versions
    assert set(UNSAFE) | set(HARMLESS_KEYS) <= VALUES | BOOLEANS | elsewhere
    assert not set(UNSAFE) & OWNED
