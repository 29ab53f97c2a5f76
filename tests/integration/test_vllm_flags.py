"""Our reading of parameters' names against the installed vLLM's own parser."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from shared.domain.params import OWNED, checked, render
from shared.domain.unsafe import UNSAFE, refuse_unsafe
from shared.domain.vllm_flags import ALIASES, BOOLEANS, VALUES
from shared.errors import InvalidRequest
from shared.settings import ROOT
from tests.engine_flags import PYTHON, Oracle, source

pytestmark = [
    pytest.mark.skipif(
        not PYTHON.exists(),
        reason="no engine environment: run `make setup`; the oracle is vLLM itself",
    ),
    pytest.mark.timeout(300),  # importing vLLM, on a machine that runs other tests, too
]

Line = tuple[str, object]  # a parameter's name as written, and its value

# Values by which vLLM's parser takes each flag, and takes it for something else than its default.
ORDINARY: tuple[object, ...] = (7, "x.Y", True, False)
SPECIAL: dict[str, object] = {
    "aggregate_engine_logging": True,
    "allowed_headers": '["x"]',
    "allowed_methods": '["x"]',
    "allowed_origins": '["x"]',
    "ec_manager_config": {"encoder_cache_manager_cls": "x.Y"},
    "ec_transfer_config": {"ec_connector": "X", "ec_role": "ec_both"},
    "fault_tolerance_config": {"engine_recovery_timeout_sec": 7},
    "additional_config": {"x": 7},
    "kv_events_config": {"topic": "x"},
    "kv_transfer_config": {"kv_connector": "X", "kv_role": "kv_both"},
    "logging_config": {"formatter": "json"},
    "model_class_overrides": {"x": "y:Z"},
    "model_loader_extra_config": {"x": 7},
    "profiler_config": {"profiler": "torch", "torch_profiler_dir": "/x"},
    "watermark_config": {"key": 7},
    "weight_transfer_config": {"backend": "ipc"},
}
NESTED: tuple[Line, ...] = (
    ("speculative_config", {"method": "custom_class", "model": "x.Y"}),
    ("speculative_config", {"model": "x.Y", "num_speculative_tokens": 1}),
    ("speculative_config", {"draft_load_config": {"load_format": "pt"}}),
    ("speculative_config.draft_load_config.load_format", "pt"),
    ("speculative_config.method", "custom_class"),
    ("structured_outputs_config.reasoning_parser_plugin", "/x.py"),
    ("compilation_config.backend", "x.Y"),
    ("compilation_config", {"cache_dir": "/x"}),
    ("hf_overrides.auto_map", {"AutoModel": "x"}),
    ("load_format", "pt"),
    ("distributed_executor_backend", "x.Y"),
    ("trust_remote_code", True),
    ("spec_method", "custom_class"),
    ("spec_model", "x.Y"),
)
TELLING: dict[str, tuple[str, ...]] = {
    "compilation_config": ("x.Y", "/x"),
    "distributed_executor_backend": ("x.Y",),
    "hf_overrides": ("auto_map",),
    "load_format": ("pt",),
    "spec_method": ("custom_class",),
    "spec_model": ("x.Y",),
    "speculative_config": ('"custom_class"', '"load_format": "pt"', '"model": "x.Y"'),
    "structured_outputs_config": ("/x.py",),
    "trust_remote_code": ("true",),
}
"""What tells, in what vLLM's parser has made of a parameter, that no request may set it so."""
NEVER_TAKEN = frozenset(
    {
        "help",  # ends the parser
        "model",  # refused beside a positional model, which the fleet always gives
        "model_tag",  # that positional one
        "omni",  # looked for before the parser runs
        "watchdog_config",  # of newer versions
    }
)


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with Oracle() as oracle:
        yield oracle


def test_the_committed_flags_are_those_of_the_installed_vllm(oracle: Oracle) -> None:
    written = (ROOT / "shared/domain/vllm_flags.py").read_text()
    assert written == source(oracle.installed()), "run `python -m tests.engine_flags`, look, commit"


def test_no_option_and_no_beginning_of_one_slips_through(oracle: Oracle) -> None:
    """Every option of vLLM, and every beginning of a dangerous one, with values that it takes."""
    lines = list(dict.fromkeys((name, freeze(value)) for name, value in all_options()))
    seen = assert_none_slips(oracle, [(name, json.loads(value)) for name, value in lines])
    expected = (OWNED | set(UNSAFE)) - NEVER_TAKEN
    assert seen >= expected, f"never set by any line, so never tested: {expected - seen}"


def test_no_spelling_slips_through(oracle: Oracle) -> None:
    """Names with dashes, `no-`, keys, `+`, cut short; values as text, JSON, lists."""
    collected: list[Line] = []

    @settings(max_examples=1500, database=None, deadline=None, phases=[Phase.generate])
    @given(spelled())
    def collect(line: Line) -> None:
        collected.append(line)

    collect()
    assert len(assert_none_slips(oracle, collected)) > 20


def all_options() -> Iterator[Line]:
    """Yield every option, and what dangerous ones begin with, with values they take."""
    for option, name in [*ALIASES.items(), *((name, name) for name in VALUES | BOOLEANS)]:
        values = (SPECIAL[name],) if name in SPECIAL else ORDINARY
        for value in values:
            yield option, value
        if name in OWNED or name in UNSAFE or name in TELLING:
            for length in range(3, len(option)):
                yield option[:length], True if name in BOOLEANS else values[0]


def freeze(value: object) -> str:
    """Return a value that can be in a set."""
    return json.dumps(value)


@st.composite
def spelled(draw: st.DrawFn) -> Line:
    """Draw a parameter of interest, in some spelling, with some form of a telling value."""
    name, value = draw(
        st.sampled_from(
            [*NESTED, *SPECIAL.items(), *((name, "x.Y") for name in sorted(OWNED | set(UNSAFE)))]
        )
    )
    stem, dot, keys = name.partition(".")
    short = [option for option, meant in ALIASES.items() if meant == stem]
    stem = draw(
        st.sampled_from([stem, stem[: max(3, len(stem) - draw(st.integers(1, 8)))], *short])
    )
    if not stem.startswith("-"):
        stem = draw(st.sampled_from(["", "--", "no_", "no-", "--no-"])) + stem
        where = draw(st.lists(st.integers(2, max(2, len(stem) - 1)), max_size=2))
        stem = "".join(
            {"_": "-", "-": "_"}.get(char, char) if at in where else char
            for at, char in enumerate(stem)
        )
    keys = draw(
        st.sampled_from([f"{dot}{keys}", f"{dot}{keys}", f"{dot}{keys}.a", f"{dot}{keys}+"])
    )
    text = json.dumps(value)
    forms: list[object] = [value, text, [value], f" {text} ", [text], True, 7]
    return stem + keys, draw(st.sampled_from(forms))


def assert_none_slips(oracle: Oracle, lines: Sequence[Line]) -> set[str]:
    """Assert that we refuse what vLLM would take for something unsafe; return what it took.

    A line is asked about twice: as a careless fleet would send it, and as ours does.
    """
    kept: list[dict[str, object] | None] = [accepted(line) for line in lines]
    careless = [["org/m", *as_written(name, value)] for name, value in lines]
    ours = [["org/m", *render(params or {})] for params in kept]
    found = oracle.meanings([*careless, *ours])
    taken: set[str] = set()
    for line, params, naive, sent in zip(
        lines, kept, found[: len(lines)], found[len(lines) :], strict=True
    ):
        taken |= set(naive or ())
        if params is not None:
            assert not list(unsafe_in(naive)), f"{line} is {naive} to vLLM, and passed"
            assert not list(unsafe_in(sent)), f"{line}, sent as {params}, is {sent} to vLLM"
    return taken


def accepted(line: Line) -> dict[str, object] | None:
    """Return what we would send for a parameter of a request; None if we refuse it."""
    try:
        params = checked(dict([line]), field="params")
        refuse_unsafe(params, opened=(), may_trust=False, field="params")
    except InvalidRequest:
        return None
    return params


def as_written(name: str, value: object) -> list[str]:
    """Return the words by which a fleet that reads no names would send a parameter."""
    flag = name if name.startswith("-") else f"--{name}"
    texts = [
        item if isinstance(item, str) else json.dumps(item)
        for item in (value if isinstance(value, list) else [value])
    ]
    if value is True:
        return [flag]
    if value is False:
        return [f"--no-{flag.lstrip('-')}"]
    return [flag, *texts] if name.startswith("-") and "--" not in name else [f"{flag}={texts[0]}"]


def unsafe_in(meaning: dict[str, Any] | None) -> Iterator[str]:
    """Yield what no request may set, of what vLLM's parser has made of a line."""
    for dest, value in (meaning or {}).items():
        marks = TELLING.get(dest, ())
        if dest in OWNED or dest in UNSAFE or any(mark in json.dumps(value) for mark in marks):
            yield dest
