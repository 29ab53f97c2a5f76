"""vLLM's start parameters: merged, refused, rendered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.params import (
    OWNED,
    checked,
    for_gpus,
    gpu_count,
    gpu_share,
    merge,
    render,
    served_names,
)
from shared.domain.spelling import normal_name
from shared.errors import InvalidRequest

MOST_CHARS = 16_384


# names


def test_names_are_kept_in_full_and_in_order() -> None:
    found = checked({"max-num-seqs": 1, "--seed": 2, "-tp": 2, "dtype": None}, field="params")
    assert list(found.items()) == [
        ("max_num_seqs", 1),
        ("seed", 2),
        ("tensor_parallel_size", 2),
        ("dtype", None),
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("max_model_len", "max-model-len"),
        ("tensor_parallel_size", "-tp"),
        ("gpu_memory_utilization", "device-memory-utilization"),
        ("quantization", "quantizatio"),
        ("enforce_eager", "no_enforce_eager"),
        ("hf_overrides.a", "hf-overrides.a"),
    ],
)
def test_two_spellings_of_one_parameter_are_one_given_twice(one: str, other: str) -> None:
    if other == "quantizatio":  # the beginning of two
        other = "--quantization"
    with pytest.raises(InvalidRequest, match=rf"^params\.{other}: given twice"):
        checked({one: True, other: False}, field="params")


# what the fleet owns


@pytest.mark.parametrize("name", sorted(OWNED))
@pytest.mark.parametrize(
    "form", ["{}", "--{}", "no_{}", "no-{}", "{}.key", "{}.a.b", "{}+", "{}.key+"]
)
def test_an_owned_parameter_is_refused_in_every_form(name: str, form: str) -> None:
    written = form.format(name)
    with pytest.raises(InvalidRequest, match=rf": the fleet owns {name}: ") as raised:
        checked({written: 1}, field="params")
    assert raised.value.field == f"params.{written}"


@pytest.mark.parametrize("name", sorted(OWNED))
def test_an_owned_parameter_is_refused_with_dashes_too(name: str) -> None:
    with pytest.raises(InvalidRequest, match="the fleet owns"):
        checked({name.replace("_", "-"): 1}, field="params")


@pytest.mark.parametrize(
    "written",
    [
        "hos", "por", "api-ke", "api_k", "model_ta", "headles", "root", "ssl-key", "no_hos",
        "no-por", "hos.key", "por+", "--ud", "node_ran", "disable_log_stat", "-n", "-dpa", "-h",
        "omn", "grpc-", "-r.key", "no_data-parallel-ext",
    ],
)  # fmt: skip
def test_what_vllm_takes_for_an_owned_parameter_is_refused(written: str) -> None:
    with pytest.raises(InvalidRequest, match="the fleet owns"):
        checked({written: 1}, field="params")


@pytest.mark.parametrize("written", ["h", "mod", "conf", "no", "n", "no_enable", "data-parallel"])
def test_the_beginning_of_several_names_is_refused(written: str) -> None:
    with pytest.raises(InvalidRequest, match=r"could mean several parameters: .*in full$"):
        checked({written: 1}, field="params")


@pytest.mark.parametrize(
    "name",
    ["config_format", "model_impl", "hf_overrides", "port_range", "node_rank_within_dp", "seed"],
)
def test_a_longer_name_than_an_owned_one_is_another_parameter(name: str) -> None:
    assert checked({name: 1}, field="params") == {name: 1}


def test_owned_names_are_in_normal_form() -> None:
    assert {normal_name(name) for name in OWNED} == OWNED


# values


@pytest.mark.parametrize(
    "value", ["a\x00b", ["a\x00b"], {"key": "a\x00b"}, {"a\x00b": 1}, [{"key": ["\x00"]}]]
)
def test_a_nul_is_refused_wherever_it_is(value: object) -> None:
    with pytest.raises(InvalidRequest, match=r"params\.x: holds a NUL character"):
        checked({"x": value}, field="params")


@pytest.mark.parametrize("item", ["-x", "--port=1", "-", -1, -1.5])
def test_a_list_cannot_smuggle_a_flag(item: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot start with '-'"):
        checked({"lora_modules": ["a", item]}, field="params")


@pytest.mark.parametrize("item", [None, [], ["a"]])
def test_a_list_holds_no_lists_and_no_nulls(item: object) -> None:
    with pytest.raises(InvalidRequest, match="a list holds strings, numbers or objects"):
        checked({"x": ["a", item]}, field="params")


def test_a_single_value_may_start_with_a_dash() -> None:
    assert checked({"x": "-1"}, field="params") == {"x": "-1"}


def test_a_value_of_a_whole_file_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=f"at most {MOST_CHARS} fit"):
        checked({"x": "a" * (MOST_CHARS + 1)}, field="params")


def test_a_value_of_a_chat_template_is_taken() -> None:
    assert checked({"x": "a" * MOST_CHARS}, field="params")


@pytest.mark.parametrize("value", ["\ud800", ["\udfff"], {"a": "\ud800"}])
def test_what_no_command_line_can_hold_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^params\.x: "):
        checked({"x": value}, field="params")


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), [float("inf")], {"a": 1e999}])
def test_a_number_that_json_does_not_have_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^params\.x: "):
        checked({"x": value}, field="params")


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("no_enforce_eager", True, {"enforce_eager": False}),
        ("no-enforce-eager", False, {"enforce_eager": True}),
        ("no_enforce_eager", None, {"no_enforce_eager": None}),
        ("no_such_flag", True, {"no_such_flag": True}),
        ("hf_overrides", ' {"a": [1]} ', {"hf_overrides": {"a": [1]}}),
        ("hf_overrides", ['{"a": 1}'], {"hf_overrides": {"a": 1}}),
        ("hf_overrides", '{"a": 1, "a": 2}', {"hf_overrides": {"a": 2}}),
        ("hf_overrides", "plain", {"hf_overrides": "plain"}),
        ("chat_template", "{{ a }}", {"chat_template": "{{ a }}"}),
    ],
)
def test_a_thing_is_said_in_one_way_only(name: str, value: object, kept: dict[str, Any]) -> None:
    assert checked({name: value}, field="params") == kept


@pytest.mark.parametrize(
    "text", ["{", "{'a': 1}", '[{"a": 1}]', '{"a": 1e999}', '{"a": "\\ud800"}']
)
def test_an_object_in_a_text_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^params\.hf_overrides: "):
        checked({"hf_overrides": text}, field="params")


# merging


def test_a_later_layer_wins() -> None:
    assert merge({"a": 1, "b": 1}, {"b": 2, "c": 2}, {"c": 3}) == {"a": 1, "b": 2, "c": 3}


def test_null_removes_what_was_inherited() -> None:
    assert merge({"a": 1, "b": 1}, {"a": None}) == {"b": 1}


def test_null_of_an_earlier_layer_removes_nothing_of_a_later_one() -> None:
    assert merge({"a": None}, {"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("inherited", "asked"),
    [({"x": True}, {"no_x": True}), ({"no_x": True}, {"x": True}), ({"x": 1}, {"no_x": True})],
)
def test_a_flag_and_its_opposite_are_one_parameter(
    inherited: dict[str, object], asked: dict[str, object]
) -> None:
    assert merge(inherited, asked) == asked


def test_a_value_is_replaced_whole() -> None:
    assert merge({"a": {"x": 1}}, {"a": {"y": 2}}) == {"a": {"y": 2}}


def test_merging_leaves_the_layers_as_they_were() -> None:
    base: dict[str, object] = {"a": 1}
    merge(base, {"a": None})
    assert base == {"a": 1}


@given(st.dictionaries(st.sampled_from("abcd"), st.integers() | st.none()))
def test_merging_a_layer_twice_is_merging_it_once(layer: dict[str, object]) -> None:
    base: dict[str, object] = {"a": 0, "b": 0}
    assert merge(base, layer, layer) == merge(base, layer)


# GPUs and names


@pytest.mark.parametrize(
    ("params", "count"),
    [
        ({}, 1),
        ({"tensor_parallel_size": 4}, 4),
        ({"tensor_parallel_size": "2", "pipeline_parallel_size": 3}, 6),
        ({"tensor_parallel_size": 2, "data_parallel_size": 2, "pipeline_parallel_size": 2}, 8),
        ({"tensor_parallel_size": 2, "prefill_context_parallel_size": 2}, 4),
    ],
)
def test_an_engine_uses_the_product_of_its_parallel_sizes(
    params: dict[str, object], count: int
) -> None:
    assert gpu_count(params) == count


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "two", "", [], None, "9" * 5_000])
def test_a_parallel_size_is_a_whole_number(size: object) -> None:
    with pytest.raises(InvalidRequest) as raised:
        gpu_count({"data_parallel_size": size})
    assert raised.value.field == "params.data_parallel_size"


@pytest.mark.parametrize(
    ("merged", "asked", "gpus", "tensor_parallel_size"),
    [
        ({}, {}, 1, None),
        ({}, {}, 4, 4),
        ({"tensor_parallel_size": 2}, {}, 4, 4),
        ({"pipeline_parallel_size": 2}, {}, 8, 4),
        ({"tensor_parallel_size": 4}, {"tensor_parallel_size": 4}, 4, 4),
    ],
)
def test_a_number_of_gpus_sets_the_parallel_size(
    merged: dict[str, object],
    asked: dict[str, object],
    gpus: int,
    tensor_parallel_size: int | None,
) -> None:
    assert for_gpus(merged, asked, gpus).get("tensor_parallel_size") == tensor_parallel_size


@pytest.mark.parametrize(
    ("merged", "asked", "gpus"),
    [
        ({"tensor_parallel_size": 2}, {"tensor_parallel_size": 2}, 4),
        ({"pipeline_parallel_size": 2}, {}, 3),
        ({"pipeline_parallel_size": 2}, {"pipeline_parallel_size": 2}, 4),
    ],
)
def test_a_number_of_gpus_that_the_sizes_do_not_make_is_refused(
    merged: dict[str, object], asked: dict[str, object], gpus: int
) -> None:
    with pytest.raises(InvalidRequest, match=f"gpus: {gpus}, but the parallel sizes") as raised:
        for_gpus(merged, asked, gpus)
    assert raised.value.field == "gpus"


@pytest.mark.parametrize(("given", "share"), [({}, 0.92), ({"gpu_memory_utilization": "0.5"}, 0.5)])
def test_an_engine_takes_a_share_of_its_gpus(given: dict[str, object], share: float) -> None:
    assert gpu_share(given) == share


@pytest.mark.parametrize("share", [0, -0.1, 1.01, True, "x", "nan", None, [0.5]])
def test_a_share_is_above_none_and_at_most_all(share: object) -> None:
    with pytest.raises(InvalidRequest) as raised:
        gpu_share({"gpu_memory_utilization": share})
    assert raised.value.field == "params.gpu_memory_utilization"


@pytest.mark.parametrize(
    ("given_name", "names"),
    [
        ("mine", ("mine",)),
        (["a", "b"], ("a", "b")),
        ("", ("org/tiny",)),
        ([], ("org/tiny",)),
        (None, ("org/tiny",)),
    ],
)
def test_an_engine_lists_its_model_as_asked_or_by_its_own_name(
    given_name: object, names: tuple[str, ...]
) -> None:
    assert served_names("org/tiny", {"served_model_name": given_name}) == names


# rendering


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("enforce_eager", True, ["--enforce-eager"]),
        ("enable_prefix_caching", False, ["--no-enable-prefix-caching"]),
        ("no_enable_prefix_caching", True, ["--no-enable-prefix-caching"]),
        ("no_enable_prefix_caching", False, ["--enable-prefix-caching"]),
        ("max_model_len", 4096, ["--max-model-len=4096"]),
        ("seed", 0, ["--seed=0"]),
        ("seed", 1, ["--seed=1"]),
        ("gpu_memory_utilization", 0.9, ["--gpu-memory-utilization=0.9"]),
        ("dtype", "auto", ["--dtype=auto"]),
        ("dtype", "", ["--dtype="]),
        ("quantization", "--port=1", ["--quantization=--port=1"]),
        ("chat_template", "{{ a b }}\n'\"$HOME", ["--chat-template={{ a b }}\n'\"$HOME"]),
        ("served_model_name", ["a"], ["--served-model-name=a"]),
        ("served_model_name", ["a", "b c"], ["--served-model-name", "a", "b c"]),
        ("served_model_name", [], []),
        ("lora_modules", [{"name": "a"}, 1], ["--lora-modules", '{"name":"a"}', "1"]),
        ("hf_overrides", {"a": [1, None]}, ['--hf-overrides={"a":[1,null]}']),
        ("hf_overrides", {"a": {"b": True}}, ['--hf-overrides={"a":{"b":true}}']),
        ("compilation_config.mode_x", 3, ["--compilation-config.mode_x=3"]),
        ("compilation_config.pass_config.a-b", "x", ["--compilation-config.pass_config.a-b=x"]),
    ],
)
def test_a_value_becomes_words(name: str, value: object, words: list[str]) -> None:
    assert render({name: value}) == words


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (True, "--compilation-config.use_inductor=true"),
        (False, "--compilation-config.use_inductor=false"),
        (["a", "b"], '--compilation-config.use_inductor=["a","b"]'),
        (["a"], '--compilation-config.use_inductor=["a"]'),
    ],
)
def test_a_key_of_a_json_parameter_takes_its_value_in_the_same_word(
    value: object, word: str
) -> None:
    # vLLM 0.32's parser takes the next word for the value of a dotted flag without `=`, whatever
    # it is, and knows no --no- form of one (measured).
    assert render({"compilation_config.use_inductor": value}) == [word]


names = st.from_regex(r"[a-z]{3,8}(_[a-z]{3,8}){0,2}", fullmatch=True).filter(
    lambda name: not any(name.startswith("no_") or owned.startswith(name) for owned in OWNED)
)
scalars = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
values = (
    scalars
    | texts
    | st.lists(scalars.filter(lambda item: item is True or json.dumps(item)[0] != "-") | texts)
    | st.dictionaries(texts, scalars)
)


@given(st.dictionaries(names, values))
def test_what_is_accepted_begins_with_a_flag_of_its_own_in_every_word_that_could_be_one(
    params: dict[str, object],
) -> None:
    try:
        accepted = checked(params, field="params")
    except InvalidRequest:
        return
    flags = [word.partition("=")[0] for word in render(accepted) if word.startswith("-")]
    known = {f"--{name.replace('_', '-')}" for name in accepted}
    assert set(flags) <= known | {flag.replace("--", "--no-", 1) for flag in known}


@pytest.mark.parametrize("depth", [65, 970])
def test_a_value_nested_too_deep_is_refused(depth: int) -> None:
    value: object = 1
    for _ in range(depth):
        value = {"a": value}
    with pytest.raises(InvalidRequest, match="nested deeper than 64 levels"):
        checked({"hf_overrides": value}, field="params")


@pytest.mark.parametrize("name", ["hf_overrides", "hf_overrides.a", "brand_new", "tokenizer"])
@pytest.mark.parametrize("depth", [65, 900])
def test_a_text_that_is_json_nested_too_deep_is_refused(name: str, depth: int) -> None:
    text = '{"a":' * depth + "1" + "}" * depth
    for value in (text, [text], f" {text}", json.dumps(text), json.dumps([text])):
        with pytest.raises(InvalidRequest, match="nested deeper than 64 levels"):
            checked({name: value}, field="params")


@pytest.mark.parametrize("text", ["[" * 16_000, '{"a":' * 3_000])
def test_a_text_that_no_parser_takes_for_json_is_a_text(text: str) -> None:
    assert checked({"brand_new": text}, field="params") == {"brand_new": text}
