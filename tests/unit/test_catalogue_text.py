"""The text of a catalogue: what it gives, and what is said of one that cannot be used."""

import re

import pytest

from shared.domain.catalogue import TARGET, Catalogue, Entry
from shared.domain.catalogue_text import parse
from shared.errors import CatalogueFault, InvalidRequest
from shared.settings import ROOT

WHOLE = """\
models:
  - name: chat
    model: Qwen/Qwen3-8B
    params:
      max-model-len: 8192
      tensor_parallel_size: 2
    env: {VLLM_LOGGING_LEVEL: DEBUG}
    timeout: 900
    replicas: {min: 1, max: 4, target: 100}
    aliases: [gpt-4o, default]
    priority: 5
    labels: {gpu: h100, fast: true}
  - name: org/tiny
    pinned: true
"""


def faults(text: str) -> tuple[str, ...]:
    """Return what is said of a catalogue that cannot be used."""
    with pytest.raises(CatalogueFault) as fault:
        parse(text)
    return fault.value.faults


def test_every_key_of_an_entry() -> None:
    chat, tiny = parse(WHOLE).entries.values()
    assert chat == Entry(
        name="chat",
        model="Qwen/Qwen3-8B",
        params={"max_model_len": 8192, "tensor_parallel_size": 2},
        env={"VLLM_LOGGING_LEVEL": "DEBUG"},
        timeout=900,
        min_replicas=1,
        max_replicas=4,
        target=100,
        aliases=("gpt-4o", "default"),
        priority=5,
        labels={"gpu": "h100", "fast": "true"},
        line=2,
    )
    assert (tiny.model, tiny.pinned, tiny.timeout) == ("org/tiny", True, None)
    assert (tiny.min_replicas, tiny.max_replicas, tiny.target) == (0, 1, TARGET)


@pytest.mark.parametrize("text", ["", "models:", "models: []", "# nothing"])
def test_a_catalogue_may_be_empty(text: str) -> None:
    assert parse(text) == Catalogue()


def test_a_model_is_found_by_each_of_its_names() -> None:
    catalogue = parse(WHOLE)
    found = [catalogue.find(name) for name in ("chat", "gpt-4o", "default", "org/tiny")]
    assert [entry.name for entry in found if entry] == ["chat", "chat", "chat", "org/tiny"]
    assert catalogue.find("nobody") is None


def test_engines_serve_all_names_of_their_model() -> None:
    chat = parse(WHOLE).entries["chat"]
    assert chat.served == ["chat", "gpt-4o", "default"]


def test_names_that_its_params_give_are_names_of_a_model_too() -> None:
    named = parse("models: [{name: a, model: b, params: {served_model_name: [c, a]}}]")
    assert named.entries["a"].served == ["a", "c"]
    assert named.find("c") == named.entries["a"]


def test_no_two_models_have_a_name_in_common() -> None:
    text = "models:\n- name: a\n  params: {served_model_name: c}\n- name: b\n  aliases: [c]\n"
    (fault,) = faults(text)
    assert fault == "line 5: models[1].aliases[0]: 'c' is a name of the model in line 3 already"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("model: x", "line 3: models[0]: has no name"),
        ("name: a\n  nmae: b", "line 4: models[0].nmae: unknown key; the keys are name, model,"),
        ("name: 3", "line 3: models[0].name: 3 is not text; quote it"),
        ("name: a b", "line 3: models[0].name: 'a b' is no name"),
        ("name: a\n  model: ../x", "line 4: models[0].model: '../x' climbs out of its folder"),
        (
            "name: a\n  params:\n    x: 1\n    port: 3",
            "line 6: models[0].params.port: the fleet owns port",
        ),
        (
            "name: a\n  params:\n    tensor_parallel_size: two",
            "line 5: models[0].params.tensor_parallel_size: 'two' is not a whole number",
        ),
        ("name: a\n  params: [x]", "line 4: models[0].params: must be a mapping, like {max_model"),
        ("name: a\n  env: {A-B: c}", "line 4: models[0].env.A-B: "),
        ("name: a\n  timeout: -1", "line 4: models[0].timeout: -1 is not a whole number from 0"),
        ("name: a\n  timeout: 5\n  pinned: true", "line 4: models[0].timeout: 5 s, but it is pinn"),
        ("name: a\n  pinned: yes", "line 4: models[0].pinned: 'yes' is neither true nor false"),
        ("name: a\n  replicas: 2", "line 4: models[0].replicas: must be a mapping with the keys"),
        ("name: a\n  replicas: {min: 3, max: 2}", "line 4: models[0].replicas.max: 2 is less than"),
        ("name: a\n  replicas: {max: 0}", "line 4: models[0].replicas.max: 0 is not a whole"),
        ("name: a\n  aliases: b", "line 4: models[0].aliases: must be a list of names"),
        ("name: a\n  aliases: [b, a]", "line 4: models[0].aliases[1]: 'a' is a name of the model"),
        ("name: a\n- name: a", "line 4: models[1].name: 'a' is a name of the model in line 3"),
        ("name: a\n  priority: high", "line 4: models[0].priority: 'high' is not a whole number"),
        ("name: a\n  labels: {x: [1]}", "line 4: models[0].labels.x: [1] is not a word"),
        ("name: a\n  name: b", "line 4: name: given twice, before in line 3"),
    ],
)
def test_a_fault_names_its_line_and_its_key(entry: str, said: str) -> None:
    (fault,) = faults(f"# one\nmodels:\n- {entry}\n")
    assert fault.startswith(said)


def test_all_faults_are_told_at_once() -> None:
    text = "models:\n- name: a\n  timeout: x\n- name: b\n- name: c\n  pinned: 1\n"
    assert [fault.partition(": ")[0] for fault in faults(text)] == ["line 3", "line 6"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: []", "line 1: the catalogue.model: unknown key; the keys are models"),
        ("- name: a", "line 1: the catalogue: must be a mapping with the keys models"),
        ("models: {a: {}}", "line 1: models: must be a list of models"),
        ("models: [a]", "line 1: models[0]: must be a mapping with the keys name,"),
    ],
)
def test_what_is_no_catalogue_is_told(text: str, said: str) -> None:
    assert faults(text)[0].startswith(said)


def test_what_the_operators_policy_refuses_is_a_fault_of_its_key() -> None:
    def refuse(entry: Entry) -> None:
        if entry.name == "b":
            raise InvalidRequest("model_name: 'x' is not an allowed model", field="model_name")

    with pytest.raises(CatalogueFault) as fault:
        parse("models:\n- name: a\n- name: b\n  model: x\n", refuse)
    assert str(fault.value) == "line 4: models[1].model: 'x' is not an allowed model"


def test_the_catalogue_that_is_shipped_can_be_used() -> None:
    assert parse((ROOT / "configs/models.yaml").read_text()).find("smollm2")


@pytest.mark.parametrize("readme", ["README.md", "README_zh.md"])
def test_the_catalogue_that_is_explained_can_be_used(readme: str) -> None:
    text = (ROOT / readme).read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert parse(block).find("gpt-4o")
