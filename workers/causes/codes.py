"""The causes of death that there are: what each means and what to change."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One cause, as docs/causes.md lists it."""

    meaning: str
    advice: str
    permanent: bool = False  # the next start would end the same way: it is not tried again


CAUSES: dict[str, Known] = {
    # the request
    "bad_flag": Known(
        meaning="vLLM's command line does not know a parameter, or not a value of that form",
        advice="correct or remove the parameter that the reason names, in params or VLLM_CONFIG",
        permanent=True,
    ),
    "bad_value": Known(
        meaning="vLLM refuses a parameter's value, by itself or together with others",
        advice="change the parameter that the reason names, in params or in VLLM_CONFIG",
        permanent=True,
    ),
    "refused": Known(
        meaning="this node's own rules refuse the request",
        advice=(
            "change the request; or have VLLM_CONFIG, VLLM_UNSAFE_PARAMS, VLLM_ALLOWED_MODELS, "
            "VLLM_MODEL_ROOTS and VLLM_ALLOWED_ENV say the same on this node as in the web tier"
        ),
        permanent=True,
    ),
    # the model
    "model_not_found": Known(
        meaning="there is no such model, or a file of it is missing",
        advice="check model_name: a folder in MODELS_DIR, a path on the node, or a name on the hub",
        permanent=True,
    ),
    "hub_unauthorized": Known(
        meaning="the hub does not let this node have the model",
        advice="set HF_TOKEN on the node to a token that may read model_name; accept its licence",
        permanent=True,
    ),
    "hub_unreachable": Known(
        meaning="the model is not on the node, and the hub does not answer or must not be asked",
        advice="put the model into MODELS_DIR, or have the hub reached: HF_ENDPOINT, HTTPS_PROXY",
    ),
    "model_corrupt": Known(
        meaning="a file of the model is damaged, incomplete, or does not belong to the others",
        advice="remove the folder of model_name from MODELS_DIR or HF_HOME and fetch it again",
        permanent=True,
    ),
    "model_unsupported": Known(
        meaning="this vLLM does not know the model's architecture",
        advice="choose another model_name, or set VLLM_COMMAND to a vLLM that knows this model",
        permanent=True,
    ),
    "model_code_refused": Known(
        meaning="the model brings code of its own, which may not run",
        advice="set trust_remote_code to true in params, if you trust whoever made the model",
        permanent=True,
    ),
    # memory
    "kv_cache_too_small": Known(
        meaning="what memory is left beside the weights does not hold one request of max_model_len",
        advice=(
            "lower max_model_len, or raise gpu_memory_utilization or tensor_parallel_size "
            "(on a CPU: VLLM_CPU_KVCACHE_SPACE in env)"
        ),
        permanent=True,
    ),
    "gpu_out_of_memory": Known(
        meaning="a GPU has less free memory than vLLM asks for",
        advice=(
            "lower gpu_memory_utilization, max_num_seqs or max_model_len, "
            "or raise tensor_parallel_size"
        ),
    ),
    "host_out_of_memory": Known(
        meaning="the machine, or the limit set for the fleet on it, has no memory left",
        advice=(
            "lower VLLM_MAX_INSTANCES, or max_model_len and max_num_seqs "
            "(on a CPU: VLLM_CPU_KVCACHE_SPACE in env), or give the node more memory"
        ),
    ),
    "shared_memory_too_small": Known(
        meaning="the shared memory that GPUs of one engine talk through is full",
        advice="give the node a larger /dev/shm (of a container: --shm-size or --ipc=host)",
    ),
    # devices
    "unsupported_platform": Known(
        meaning="a parameter wants what this node's hardware cannot do",
        advice="remove the parameter that the reason names, or choose a node that can do it",
        permanent=True,
    ),
    "gpu_too_old": Known(
        meaning="the GPU's generation lacks what the model's number format needs",
        advice="set dtype to float16, or choose another quantization or another GPU",
        permanent=True,
    ),
    "too_few_gpus": Known(
        meaning="more GPUs are asked for than the engine was given",
        advice="lower tensor_parallel_size, pipeline_parallel_size or data_parallel_size",
        permanent=True,
    ),
    "gpu_unavailable": Known(
        meaning="vLLM finds no working GPU: driver, device or permission",
        advice="see nvidia-smi on the node; the driver must fit the CUDA of VLLM_COMMAND's vLLM",
    ),
    "gpu_fault": Known(
        meaning="a GPU or its driver reported an error while it computed",
        advice="see Xid lines in the node's kernel log; if there are none, try enforce_eager: true",
    ),
    "gpu_communication_failed": Known(
        meaning="the GPUs of one engine cannot talk with each other",
        advice="set NCCL_DEBUG=INFO in env and read the log; try disable_custom_all_reduce: true",
    ),
    # the node
    "port_taken": Known(
        meaning="another program has the port",
        advice="give the fleet a range of its own: VLLM_BASE_PORT to + VLLM_MAX_INSTANCES",
    ),
    "disk_full": Known(
        meaning="a disk of the node is full",
        advice="free space where HF_HOME, RUN_DIR, the home folder and /tmp of the node are",
    ),
    "too_many_files": Known(
        meaning="the engine may not open as many files as it needs",
        advice="raise the limit of open files (ulimit -n) that the worker is started with",
    ),
    "permission_denied": Known(
        meaning="the fleet's user may not read or write what the engine needs",
        advice="let the worker's user read the model and write to HF_HOME and its home folder",
        permanent=True,
    ),
    "command_not_found": Known(
        meaning="the program that VLLM_COMMAND names could not be run",
        advice="set VLLM_COMMAND to a vllm program of this node",
        permanent=True,
    ),
    "missing_package": Known(
        meaning="the engine environment lacks a Python package or a library",
        advice="install what the reason names into the environment that VLLM_COMMAND is in",
        permanent=True,
    ),
    "compiler_missing": Known(
        meaning="kernels are to be compiled, and the node has no compiler or it failed",
        advice="install gcc and ninja on the node, or set enforce_eager to true",
        permanent=True,
    ),
    # what happened to it
    "killed": Known(
        meaning="somebody killed it, or a process of it, with SIGKILL",
        advice="see who did: the node's shell history, its kernel log, its service manager",
    ),
    "terminated": Known(
        meaning="it ended in good order though the fleet had not asked it to",
        advice="see who sent it SIGTERM or SIGINT: use DELETE /instances/{id} to stop an instance",
    ),
    "crashed": Known(
        meaning="a process of it broke down in machine code",
        advice="set enforce_eager to true, or use another vLLM (VLLM_COMMAND); keep the log",
    ),
    "engine_hung": Known(
        meaning="requests ran and none went on for HANG_GRACE seconds",
        advice="see the log; HANG_GRACE says how long an engine may stand still",
    ),
    "gpu_in_use": Known(
        meaning="another process held memory of its GPU before it was started",
        advice="end the process that the reason names, or keep it off this node's GPUs: nvidia-smi",
    ),
    "start_stalled": Known(
        meaning="its start did not go on for START_STALL_TIMEOUT seconds",
        advice="see the log; START_STALL_TIMEOUT says how long a start may stand still",
    ),
    "not_spawned": Known(
        meaning="the node could not even start a process for it",
        advice="see the worker's log; free memory, processes or space in RUN_DIR on the node",
    ),
    "node_rebooted": Known(
        meaning="the machine was started anew while it ran",
        advice="nothing is wrong with the instance; it is started again",
    ),
    "shim_lost": Known(
        meaning="the engine's parent on the node was killed, and the engine was ended with it",
        advice="see who sends SIGKILL on the node: an operator, or the kernel for want of memory",
    ),
    "unknown": Known(
        meaning="nothing known was found in its log",
        advice="read its log: GET /instances/{id}/logs?run=previous",
    ),
}
"""Code → what is known of it. Codes last for ever: programs compare them."""
