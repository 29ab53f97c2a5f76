"""The texts that vLLM leaves behind when it fails, root cause last, as operators find them."""

from typing import Final

ENGINE_INIT_FAILED: Final = """\
Traceback (most recent call last):
  File "vllm/entrypoints/launchers/api_server/entry.py", line 98, in build_async_engine_client
  File "vllm/v1/engine/utils.py", line 1431, in wait_for_engine_startup
RuntimeError: Engine core initialization failed. See root cause above. \
Failed core proc(s): {'EngineCore': 1}"""

CORE_START_FAILED: Final = """\
EngineCore failed to start.
Traceback (most recent call last):
  File "vllm/v1/engine/core.py", line 1180, in run_engine_core
  File "vllm/v1/executor/multiproc_executor.py", line 812, in wait_for_ready
Exception: WorkerProc initialization failed due to an exception in a background process. \
See stack trace for root cause."""

WORKER_DIED: Final = "Worker proc VllmWorker-0 died unexpectedly, shutting down executor."

ENGINE_DEAD: Final = """\
AsyncLLM output_handler failed.
Traceback (most recent call last):
  File "vllm/v1/engine/async_llm.py", line 708, in output_handler
  File "vllm/v1/engine/core_client.py", line 1034, in get_output_async
vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. \
See stack trace (above) for the root cause."""

CRASHED: Final = """\
Traceback (most recent call last):
  File "vllm/entrypoints/cli/serve.py", line 301, in run_api_server
  File "vllm/entrypoints/launchers/launcher.py", line 290, in serve_http
RuntimeError: stand-in crash, as asked by --crash-after"""

_WORKER_FAILED: Final = """\
WorkerProc failed to start.
Traceback (most recent call last):
  File "vllm/v1/executor/multiproc_executor.py", line 917, in worker_main
  File "vllm/v1/worker/gpu_model_runner.py", line 5012, in load_model
"""

# What a worker logs last, by the name of the fault in its orders.
LOAD_FAULTS: Final = {
    "crash": f"{_WORKER_FAILED}RuntimeError: stand-in crash, as asked by --crash-while-loading",
    "oom": f"{_WORKER_FAILED}torch.OutOfMemoryError: CUDA out of memory. Tried to allocate "
    "2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.06 GiB is free. Including "
    "non-PyTorch memory, this process has 78.03 GiB memory in use. Of the allocated memory "
    "77.21 GiB is allocated by PyTorch, and 214.48 MiB is reserved by PyTorch but unallocated.",
}


def no_such_model(model: str) -> str:
    """Return the traceback of a model that is neither a folder nor known to the hub."""
    return f"""\
Traceback (most recent call last):
  File "vllm/transformers_utils/config.py", line 742, in get_config
  File "transformers/utils/hub.py", line 511, in cached_files
OSError: {model} is not a local folder and is not a valid model identifier \
listed on 'https://huggingface.co/models'"""


def cannot_bind(error: OSError) -> str:
    """Return the traceback of a port that is taken or an address that is not ours."""
    return f"""\
Traceback (most recent call last):
  File "vllm/entrypoints/launchers/launcher.py", line 348, in create_server_socket
OSError: {error}"""
