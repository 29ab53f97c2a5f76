"""Why an engine ended, from its exit and its last log lines."""

import pytest

from shared.domain.instance import Exit
from workers.causes import cause_of_death

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
