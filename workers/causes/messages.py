"""The messages by which vLLM, and what it stands on, tell why it ends.

Data only. Each has its source: a file of vLLM 0.32.0 that its text is in, the package it comes
from, or an issue that quotes it. The first message that is found in a log decides, so what says
more stands before what says less.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A line of a log that tells a cause."""

    code: str
    pattern: str  # searched for in each line by itself
    source: str
    place: str = ""  # searched for in the log too: a function that a traceback is of
    advice: str = ""  # where it can say more than the cause's own
    serving: bool = False  # also told by an engine that was ready, not only by one that starts


_HUB = "huggingface_hub 1.x, utils/_http.py and errors.py"
_TRANSFORMERS = "transformers 5.19, utils/hub.py"
_ARGPARSE = "argparse"

MESSAGES: tuple[Message, ...] = (
    # a command line that is refused
    Message(
        code="bad_flag",
        pattern=r"error: (?:unrecognized arguments|argument |ambiguous option)",
        source=_ARGPARSE,
    ),
    Message(
        code="command_not_found",
        pattern=r"^could not run .*(?:No such file|Permission denied|Exec format|Not a directory)",
        source="workers/shim.py",
    ),
    # the hub, from what says most to what says least
    Message(
        code="hub_unauthorized",
        pattern=(
            r"access a gated repo|Cannot access gated repo|GatedRepoError"
            r"|Invalid (?:user token|credentials)"
            r"|401 Client Error.*Unauthorized|403 Client Error|403 Forbidden"
        ),
        source=f"{_HUB}; {_TRANSFORMERS}",
    ),
    Message(
        code="model_not_found",
        pattern=r"RepositoryNotFoundError|Repository Not Found for url",
        source=_HUB,
        advice="check model_name; a private model needs HF_TOKEN on the node",
    ),
    Message(
        code="model_not_found",
        pattern=(
            r"RevisionNotFoundError|Repo id must be in the form"
            r"|is not a local folder and is not a valid model identifier"
            r"|does not appear to have a file named|Can't load the configuration of"
        ),
        source=f"{_HUB}; {_TRANSFORMERS}",
    ),
    Message(
        code="hub_unreachable",
        pattern=(
            r"We couldn't connect to |Cannot find an appropriate cached snapshot"
            r"|Cannot find the requested files in the disk cache|LocalEntryNotFoundError"
            r"|OfflineModeIsEnabled|(?:Connection|Connect|ReadTimeout|NameResolution)Error.*huggingface"
        ),
        source=f"{_HUB}; {_TRANSFORMERS}",
    ),
    # the model's files
    Message(
        code="model_code_refused",
        pattern=(
            r"requires you to execute the (?:configuration|code|tokenizer) file"
            r"|consider setting `trust_remote_code=True`"
            r"|contains custom code which must be executed"
        ),
        source="vllm/transformers_utils/config.py; transformers 5.19, dynamic_module_utils.py",
    ),
    Message(
        code="model_unsupported",
        pattern=(
            r"Model architectures? .* (?:are|is) not supported"
            r"|Model architectures .* failed to be inspected"
            r"|does not recognize this architecture"
        ),
        source="vllm/model_executor/models/registry.py; transformers 5.19, configuration_auto.py",
    ),
    Message(
        code="model_not_found",
        pattern=(
            r"Invalid repository ID or local directory specified"
            r"|Cannot find any model weights with"
        ),
        source="vllm/transformers_utils/config.py; vllm/model_executor/model_loader/*.py",
    ),
    Message(
        code="model_not_found",
        pattern=r"LoRAAdapterNotFoundError|No adapter found",
        source="vllm/exceptions.py",
        advice="check the paths in lora_modules: folders of the node, or names on the hub",
    ),
    Message(
        code="model_not_found",
        pattern=r"Couldn't instantiate the backend tokenizer|Can't load tokenizer",
        source="transformers 5.19, tokenization_utils_base.py",
        advice="add the tokenizer's files to the model's folder, or set tokenizer in params",
    ),
    Message(  # a length that is no length: MemoryError where a git-lfs pointer stands for weights
        code="model_corrupt",
        pattern=r"^(?:MemoryError|OverflowError|struct\.error|UnicodeDecodeError)",
        place=r"in parse_safetensors_file_metadata",
        source="vllm/transformers_utils/utils.py",
        advice="a .safetensors file of the model is empty or a git-lfs pointer: fetch it whole",
    ),
    Message(
        code="model_corrupt",
        pattern=(
            r"SafetensorError|Error while deserializing header|JSONDecodeError"
            r"|is not a valid JSON file|Attempted to load weight .* into parameter"
            r"|UnpicklingError|invalid load key|PytorchStreamReader failed"
            r"|weights were not initialized from checkpoint"
            r"|There is no module or parameter named"
        ),
        source="safetensors; vllm/model_executor/model_loader/*.py; torch/serialization.py",
    ),
    # memory
    Message(
        code="kv_cache_too_small",
        pattern=(
            r"larger than the available KV cache memory|No available memory for the cache blocks"
            r"|Cannot auto-fit max_model_len"
        ),
        source="vllm/v1/core/kv_cache_utils.py",
    ),
    Message(
        code="kv_cache_too_small",
        pattern=r"exceeds available Mamba cache blocks",
        source="vllm/config/compilation.py",
        advice="lower max_num_seqs, or raise gpu_memory_utilization",
    ),
    Message(
        code="gpu_out_of_memory",
        pattern=r"Free memory on device .* (?:less than desired GPU memory|less than the engine's)",
        source="vllm/v1/worker/utils.py",
        advice=(
            "lower gpu_memory_utilization, or free the GPU: nvidia-smi on the node says who has it"
        ),
    ),
    Message(
        code="gpu_out_of_memory",
        pattern=(
            r"CUDA out of memory|HIP out of memory|XPU out of memory|CUDA error: out of memory"
            r"|CUBLAS_STATUS_ALLOC_FAILED|less than desired GPU memory utilization"
        ),
        source="torch; vllm/v1/worker/gpu_model_runner.py; vllm-project/vllm#12030",
        serving=True,
    ),
    Message(
        code="host_out_of_memory",
        pattern=r"less than desired CPU memory utilization",
        source="vllm/v1/worker/cpu_worker.py",
        advice="lower gpu_memory_utilization (on a CPU it is a share of the machine's memory)",
    ),
    Message(
        code="shared_memory_too_small",
        pattern=r"shared memory segment .*/dev/shm|unable to (?:write to|open|mmap).*shared memory",
        source="vllm-project/vllm#14537; torch/csrc shm",
        serving=True,
    ),
    Message(
        code="host_out_of_memory",
        pattern=(
            r"\bMemoryError\b|DefaultCPUAllocator: (?:can't allocate|not enough) memory"
            r"|std::bad_alloc|Cannot allocate memory|cudaHostAlloc failed|failed to map segment"
        ),
        source="CPython; torch/c10/core/CPUAllocator; libstdc++; errno 12",
        serving=True,
    ),
    # devices
    Message(
        code="gpu_too_old",
        pattern=(
            r"only supported on GPUs with compute capability|Minimum capability:"
            r"|no kernel image is available for execution on the device"
        ),
        source="vllm/platforms/cuda.py; vllm/config/vllm.py; vllm-project/vllm#24430",
    ),
    Message(
        code="unsupported_platform",
        pattern=(
            r"not supported (?:on|in|for) (?:the )?(?:current platform|cpu|CPU|cuda|rocm|xpu)"
            r"|only available on (?:CUDA|ROCm)|No valid .*attention backend found"
            r"|is not supported (?:on|by) (?:CPU|ROCm|XPU)"
            # an operation that was not built for this device
            r"|_C::\w+\(\) expected at most 0 argument"
            r"|Could not run '[^']*' with arguments from the"
        ),
        source="vllm/platforms/*.py; vllm/config/model.py; torch",
    ),
    Message(
        code="too_few_gpus",
        pattern=(
            r"larger than the number of available GPUs|is less than than max local gpu count"
            r"|exceeds available GPUs|invalid device ordinal|device-ids index .* out of range"
        ),
        source="vllm/config/parallel.py; vllm-project/vllm#15217",
    ),
    Message(
        code="gpu_unavailable",
        pattern=(
            r"No CUDA GPUs are available|Failed to infer device type|NVIDIA driver on your system"
            r"|CUDA driver version is insufficient|CUDA driver initialization failed"
            r"|Driver/library version mismatch|CUDA unknown error|system not yet initialized"
            r"|device\(s\) is/are busy or unavailable"
        ),
        source="torch/cuda/__init__.py; vllm/config/device.py; vllm-project/vllm#1772",
    ),
    Message(
        code="gpu_fault",
        pattern=(
            r"CUDA error: (?:an illegal memory access|device-side assert|unspecified launch failure"
            r"|misaligned address|uncorrectable ECC|the launch timed out|an illegal instruction"
            r"|unknown error|hardware)|CUBLAS_STATUS_EXECUTION_FAILED|has fallen off the bus"
        ),
        source="CUDA runtime's error texts; vllm-project/vllm#13939, #24430",
        serving=True,
    ),
    Message(
        code="gpu_communication_failed",
        pattern=(
            r"NCCL error|ncclSystemError|ncclInternalError|ncclUnhandledCudaError|DistBackendError"
            r"|ncclRemoteError|Watchdog caught collective operation timeout"
        ),
        source="torch/csrc/distributed; vllm-project/vllm#10626; llm-d/llm-d#352",
        serving=True,
    ),
    # the node
    Message(
        code="port_taken",
        pattern=r"[Aa]ddress already in use",
        source="errno 98, vllm/entrypoints/launchers/launcher.py",
    ),
    Message(
        code="disk_full",
        pattern=r"No space left on device|Disk quota exceeded|File too large",
        source="errno 28, 122, 27",
        serving=True,
    ),
    Message(
        code="too_many_files",
        pattern=r"Too many open files|EMFILE",
        source="errno 24",
        serving=True,
    ),
    Message(
        code="permission_denied",
        pattern=r"PermissionError|\[Errno 13\]|Read-only file system",
        source="errno 13, 30",
    ),
    Message(
        code="compiler_missing",
        pattern=(
            r"Failed to find C compiler|Could not find nvcc|Error building extension"
            r"|Ninja is required|No such file or directory: '(?:ninja|gcc|g\+\+|nvcc)'"
            r"|Command '\['ninja'.* returned non-zero|CppCompileError|InvalidCxxCompiler"
        ),
        source="triton; torch/utils/cpp_extension.py; vllm-project/vllm#2997, #15329",
        serving=True,
    ),
    Message(
        code="missing_package",
        pattern=(
            r"ModuleNotFoundError: No module named|ImportError: |PackageNotFoundError"
            r"|cannot open shared object file|undefined symbol"
        ),
        source="CPython; ld.so",
    ),
    # the rest of what vLLM checks by itself: it comes last, for some of the above is in it
    Message(
        code="bad_value",
        pattern=r"must be divisible by tensor parallel size",
        source="vllm/config/model.py",
        advice="set tensor_parallel_size to a divisor of the model's number of attention heads",
    ),
    Message(
        code="bad_value",
        pattern=r"is greater than the derived max_model_len",
        source="vllm/config/model.py",
        advice="lower max_model_len to what the model was made for, which the reason says",
    ),
    Message(
        code="bad_value",
        pattern=r"^\s+(?:Value error|Assertion failed), |^\s+\S+: Input should be ",
        source="pydantic, of vllm/config/*.py",
    ),
    Message(
        code="bad_value",
        pattern=r"chat template|Invalid data-parallel launch options|are mutually exclusive",
        source="vllm/entrypoints/chat_utils.py; vllm/engine/arg_utils.py",
    ),
)
