"""Why an engine ended, from its exit and its last log lines."""

import re
from time import monotonic

import pytest

from shared.domain.instance import Exit
from shared.settings import ROOT
from workers.causes import cause_of_death, known
from workers.causes.__main__ import page
from workers.causes.codes import CAUSES
from workers.causes.messages import MESSAGES
from workers.stages import Load, follow

FAILED = Exit(code=1, signal=None, at=1.0)
MISUSED = Exit(code=2, signal=None, at=1.0)
KILLED = Exit(code=None, signal=9, at=1.0)


@pytest.mark.parametrize(
    ("ended", "line", "code"),
    [
        (MISUSED, "vllm: error: unrecognized arguments: --max-model-length=1", "bad_flag"),
        (MISUSED, "vllm serve: error: argument --dtype: invalid choice: 'x'", "bad_flag"),
        (MISUSED, "vllm: error: ambiguous option: --max could match --max-a, --max-b", "bad_flag"),
        (
            FAILED,
            "OSError: nope/none is not a local folder and is not a valid model identifier listed",
            "model_not_found",
        ),
        (
            FAILED,
            "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.",
            "model_not_found",
        ),
        (
            FAILED,
            "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name'",
            "model_not_found",
        ),
        (FAILED, "OSError: Can't load the configuration of '/x'.", "model_not_found"),
        (
            FAILED,
            "OSError: /m does not appear to have a file named config.json.",
            "model_not_found",
        ),
        (
            Exit(code=127, signal=None, at=1.0),
            "could not run /x/vllm: [Errno 2] No such file or directory: '/x/vllm'",
            "command_not_found",
        ),
        (
            FAILED,
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
            "gpu_out_of_memory",
        ),
        (
            FAILED,
            "ValueError: Free memory (3.1/79.1 GiB) is less than desired GPU memory utilization.",
            "gpu_out_of_memory",
        ),
        (
            FAILED,
            "ValueError: Sleep mode is not supported on current platform.",
            "unsupported_platform",
        ),
        (FAILED, "OSError: [Errno 98] Address already in use", "port_taken"),
        (FAILED, "RuntimeError: something new", "unknown"),
        (KILLED, "INFO all well", "killed"),
    ],
)
def test_the_cause_of_death(ended: Exit, line: str, code: str) -> None:
    assert cause_of_death(ended, ["INFO before", line, "INFO after"]).code == code


@pytest.mark.parametrize("ended", [FAILED, KILLED, Exit(code=None, signal=None, at=None)])
def test_a_death_without_a_log_still_says_how_it_ended(ended: Exit) -> None:
    assert cause_of_death(ended, []).reason == f"engine {ended}"


def test_the_reason_holds_the_logs_own_words() -> None:
    cause = cause_of_death(MISUSED, ["usage: vllm", "vllm: error: unrecognized arguments: --x=1"])
    assert cause.reason == "engine exited with status 2: vllm: error: unrecognized arguments: --x=1"


def test_a_known_cause_comes_with_advice() -> None:
    assert "params" in cause_of_death(MISUSED, ["vllm: error: unrecognized arguments: -x"]).advice


def test_a_known_cause_in_the_log_says_more_than_the_signal() -> None:
    log = ["torch.OutOfMemoryError: CUDA out of memory."]
    assert cause_of_death(KILLED, log).code == "gpu_out_of_memory"


def test_of_several_errors_the_last_one_is_quoted() -> None:
    log = ["ValueError: first", "KeyError: second", "INFO bye"]
    assert cause_of_death(FAILED, log).reason == "engine exited with status 1: KeyError: second"


def test_the_reason_is_one_line() -> None:
    log = ["  ValueError: Address already in use  ", "more"]
    assert "\n" not in cause_of_death(FAILED, log).reason


def test_an_errors_like_in_a_warning_or_in_a_request_is_no_cause() -> None:
    log = [
        "(APIServer pid=1) WARNING 11-23 16:25:55 [u.py:2] `OSError: Too many open files`.",
        "(APIServer pid=1) INFO 11-23 16:25:55 [logger.py:40] Received request: CUDA out of memory",
        "/engine/torch/x.py:1: UserWarning: No space left on device",
    ]
    assert cause_of_death(FAILED, log).code == "unknown"


def test_what_callers_can_have_logged_is_no_cause_once_it_was_ready() -> None:
    log = ["ERROR 11-23 16:25:55 [x.py:1] OSError: /a does not appear to have a file named b"]
    assert cause_of_death(FAILED, log).code == "model_not_found"
    assert cause_of_death(FAILED, log, was_ready=True).code == "unknown"


def test_a_signal_from_outside_is_not_told_by_what_it_logged_before() -> None:
    log = ["ERROR 11-23 16:25:55 [x.py:1] OSError: [Errno 28] No space left on device"]
    assert cause_of_death(KILLED, log, was_ready=True).code == "killed"


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (9, "killed"),
        (15, "terminated"),
        (2, "terminated"),
        (11, "crashed"),
        (6, "crashed"),
        (4, "crashed"),
        (7, "crashed"),
        (31, "killed"),
    ],
)
def test_each_signal_has_its_cause(number: int, code: str) -> None:
    assert cause_of_death(Exit(code=None, signal=number, at=1.0), []).code == code


@pytest.mark.parametrize(
    "line",
    [
        "ERROR [x] Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting down.",
        "RuntimeError: Engine core initialization failed. Failed core proc(s): {'EngineCore': -9}",
    ],
)
def test_a_process_of_it_that_was_killed_is_named(line: str) -> None:
    cause = cause_of_death(FAILED, [line], was_ready=True)
    assert cause.code == "killed"
    assert line in cause.reason


def test_the_kernels_word_makes_a_kill_a_lack_of_memory() -> None:
    cause = cause_of_death(KILLED, ["MemoryError"], out_of_memory="the kernel killed vllm")
    assert (cause.code, cause.reason) == (
        "host_out_of_memory",
        "engine ended by signal 9: the kernel killed vllm",
    )


def test_the_kernels_word_says_nothing_of_another_end() -> None:
    cause = cause_of_death(
        MISUSED, ["vllm: error: argument --x"], out_of_memory="the kernel killed"
    )
    assert cause.code == "bad_flag"


def test_an_end_in_good_order_that_nobody_asked_for_is_said_to_be_one() -> None:
    assert cause_of_death(Exit(code=0, signal=None, at=1.0), []).code == "terminated"


def test_a_line_that_lists_everything_is_cut() -> None:
    log = ["ValueError: Model architectures ['X'] are not supported for now. " + "A, " * 2000]
    assert len(cause_of_death(FAILED, log).reason) < 500


def test_where_the_log_is_of_a_process_its_prefix_is_left_out() -> None:
    log = ["(Worker pid=31) ERROR 11-23 16:27:16 [multiproc_executor.py:953] KeyError: 'a'"]
    assert cause_of_death(FAILED, log).reason == "engine exited with status 1: KeyError: 'a'"


def test_what_only_points_to_another_error_is_not_quoted() -> None:
    log = [
        "KeyError: 'a'",
        "RuntimeError: Engine core initialization failed. See root cause above.",
    ]
    assert cause_of_death(FAILED, log).reason.endswith("KeyError: 'a'")


def test_a_permanent_cause_is_said_to_be_one() -> None:
    assert cause_of_death(MISUSED, ["vllm: error: argument --x"]).permanent
    assert not cause_of_death(KILLED, []).permanent


def test_every_message_has_a_known_cause_a_source_and_a_pattern_that_compiles() -> None:
    for message in MESSAGES:
        assert message.code in CAUSES
        assert message.source
        re.compile(message.pattern)


def test_every_cause_that_workers_give_is_a_known_one() -> None:
    told = {
        code
        for path in (ROOT / "workers").rglob("*.py")
        for code in re.findall(r'\b(?:known|Cause)\(\s*"(\w+)"', path.read_text())
    }
    assert told
    assert told <= set(CAUSES)


@pytest.mark.parametrize("code", CAUSES)
def test_advice_is_one_line_that_can_be_acted_upon(code: str) -> None:
    advice = known(code, "why").advice
    assert advice
    assert "\n" not in advice
    assert len(advice) < 200


def test_the_page_of_causes_is_up_to_date() -> None:
    assert (ROOT / "docs/causes.md").read_text() == page()


def test_the_code_in_a_traceback_is_no_error() -> None:
    log = ['  File "x.py", line 1, in f', "    raise RepositoryNotFoundError(", "KeyError: 'a'"]
    assert cause_of_death(FAILED, log).reason.endswith("KeyError: 'a'")


def test_a_wrong_field_is_named() -> None:
    log = [
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for CacheConfig",
        "gpu_memory_utilization",
        "  Input should be less than or equal to 1 [type=less_than_equal, input_value=1.5]",
    ]
    cause = cause_of_death(FAILED, log)
    assert cause.code == "bad_value"
    assert cause.reason.endswith(
        ": gpu_memory_utilization: Input should be less than or equal to 1"
    )


def test_a_core_that_falls_silent_was_killed_whatever_the_exit_status() -> None:
    log = ["(APIServer pid=1) WARNING 11-23 16:45:38 [c.py:817] engine core exited unexpectedly"]
    ended = Exit(code=0, signal=None, at=1.0)
    assert cause_of_death(ended, log, was_ready=True).code == "killed"
    told = cause_of_death(ended, log, was_ready=True, out_of_memory="the kernel killed it")
    assert told.code == "host_out_of_memory"


def test_a_core_that_says_why_was_not_killed() -> None:
    log = [
        "(EngineCore pid=2) ERROR 11-23 16:45:37 [core.py:1520] KeyError: 'block'",
        "(APIServer pid=1) WARNING 11-23 16:45:38 [c.py:817] engine core exited unexpectedly",
    ]
    cause = cause_of_death(Exit(code=0, signal=None, at=1.0), log, was_ready=True)
    assert (cause.code, cause.reason.endswith("KeyError: 'block'")) == ("unknown", True)


@pytest.mark.parametrize(
    "line", ["loading " * 1000, "Error: " * 1000, "ERROR 11-23 16:25:55 [x.py:1] " + "a" * 8000]
)
def test_whatever_callers_have_an_engine_log_is_judged_soon(line: str) -> None:
    began = monotonic()
    cause_of_death(FAILED, [line] * 1000)
    follow(Load(), [line] * 1000)
    assert monotonic() - began < 10  # on a busy machine; quadratic patterns took minutes
