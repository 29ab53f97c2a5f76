"""Why an engine ended: a short cause code, a line for people, and what to change."""

from __future__ import annotations

import re
from collections.abc import Sequence

from shared.domain.cause import Cause
from shared.domain.instance import Exit

_LINE = r"[^\n]*"
_KNOWN: tuple[tuple[str, str, str, bool], ...] = (
    (
        "bad_flag",
        rf"error: (?:unrecognized arguments|argument |ambiguous option){_LINE}",
        "correct or remove this parameter in params or in VLLM_CONFIG",
        True,
    ),
    (
        "model_not_found",
        (
            rf"is not a local folder and is not a valid model identifier{_LINE}"
            rf"|Repo id must be in the form{_LINE}|RepositoryNotFoundError{_LINE}"
            rf"|does not appear to have a file named{_LINE}"
        ),
        "check model_name: a folder in MODELS_DIR, a path on the node, or a name on the model hub",
        True,
    ),
    (
        "model_not_found",
        rf"Can't load the configuration of{_LINE}|could not run {_LINE}",
        "check model_name, and that VLLM_COMMAND names a program of this node",
        True,
    ),
    (
        "hub_unreachable",
        rf"We couldn't connect to {_LINE}|Cannot find an appropriate cached snapshot{_LINE}",
        "put the model into MODELS_DIR, or let the node reach the hub: HF_ENDPOINT, HTTPS_PROXY",
        False,
    ),
    (
        "gpu_out_of_memory",
        rf"CUDA out of memory{_LINE}|less than desired GPU memory utilization{_LINE}",
        "lower gpu_memory_utilization or max_model_len, or use more GPUs (tensor_parallel_size)",
        False,
    ),
    (
        "unsupported_platform",
        rf"{_LINE}is not supported on (?:the )?current platform{_LINE}",
        "remove the parameter that this node's hardware cannot do",
        True,
    ),
    (
        "port_taken",
        rf"{_LINE}[Aa]ddress already in use{_LINE}",
        "another program uses a port from VLLM_BASE_PORT on; give the fleet a range of its own",
        False,
    ),
)  # fmt: skip
_ERROR_LINE = re.compile(r"\b(?:[A-Z]\w*(?:Error|Exception)|error|Error)\b.*:")
_KILLED_ADVICE = "somebody or the kernel's out-of-memory killer ended it: see the node's kernel log"


def cause_of_death(ended: Exit, last_log: Sequence[str]) -> Cause:
    """Return why an engine that was not told to stop has ended.

    Args:
        ended: how its first process ended.
        last_log: its last log lines, oldest first.
    """
    text = "\n".join(last_log)
    for code, pattern, advice, permanent in _KNOWN:
        if match := re.search(pattern, text):
            return Cause(code, f"engine {ended}: {match.group(0).strip()}", advice, permanent)
    if ended.signal is not None:
        return Cause("killed", f"engine {ended}", _KILLED_ADVICE)
    said = next((line for line in reversed(last_log) if _ERROR_LINE.search(line)), "")
    return Cause("unknown", f"engine {ended}: {said.strip()}" if said else f"engine {ended}")
