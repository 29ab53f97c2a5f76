"""Load stages, from log lines as vLLM prints them."""

import pytest

from workers.stages import STAGES, Load, follow

# Printed by vLLM 0.32.0 on a CPU, loading SmolLM2-135M-Instruct.
NON_DEFAULT_ARGS = (
    "(APIServer pid=2643) INFO 11-23 09:35:57 [api_utils.py:286] non-default args: {'model_tag': "
    "'/models/SmolLM2-135M-Instruct', 'host': '127.0.0.1', 'port': 9000}"
)
ARCHITECTURE = (
    "(APIServer pid=2643) INFO 11-23 09:36:09 [model.py:733] Resolved architecture: "
    "LlamaForCausalLM"
)
ENGINE = (
    "(EngineCore pid=2758) INFO 11-23 09:36:17 [core.py:133] Initializing a V1 LLM engine "
    "(v0.32.0) with config: model='/models/SmolLM2-135M-Instruct', speculative_config=None"
)
WORLD = (
    "(Worker pid=2798) INFO 11-23 09:36:28 [parallel_state.py:1906] world_size=1 rank=0 "
    "local_rank=0 distributed_init_method=file:///tmp/vllm_dist_0189 backend=gloo"
)
LOADING = (
    "(Worker pid=2798) INFO 11-23 09:36:28 [cpu_model_runner.py:68] Starting to load model "
    "/models/SmolLM2-135M-Instruct..."
)
SHARDS_0 = "Loading safetensors checkpoint shards:   0% Completed | 0/1 [00:00<?, ?it/s]"
SHARDS_100 = "Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:00<00:00,  1.20it/s]"
COMPILING = (
    "(Worker pid=3509) INFO 11-23 09:38:32 [cpu_model_runner.py:87] Warming up model for the "
    "compilation..."
)
COMPILED = (
    "(Worker pid=3509) INFO 11-23 09:39:52 [decorators.py:743] [backbone] saved AOT compiled "
    "function to ~/.cache/vllm/torch_compile_cache/torch_aot_compile/e66d/rank_0_0/model"
)
KV_CACHE = (
    "(EngineCore pid=3469) INFO 11-23 09:39:58 [kv_cache_utils.py:2327] CPU KV cache size: 46,592 "
    "tokens, Maximum concurrency for 1,024 tokens per request: 45.50x"
)
INIT_ENGINE = (
    "(EngineCore pid=3469) INFO 11-23 09:40:00 [core.py:402] init engine (profile, create kv "
    "cache, warmup model) took 88.29 s"
)
SERVING = (
    "(APIServer pid=2643) INFO 11-23 09:36:36 [entry.py:140] Starting vLLM server on "
    "http://127.0.0.1:9000"
)
COMPLETE = "INFO:     Application startup complete."
# As huggingface_hub and vLLM on a GPU print them.
FETCHING = "Fetching 4 files:  25%|██▌       | 1/4 [00:10<00:30, 10.2s/it]"
DOWNLOADING = "model-00001-of-00004.safetensors:  37%|███▋      | 1.85G/4.98G [00:21<00:36, 86MB/s]"
CAPTURING = "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  42%|████▏     | 28/67"
CAPTURING_FULL = "Capturing CUDA graphs (decode, FULL): 100%|██████████| 35/35 [00:02<00:00]"
DYNAMO = "INFO 11-23 09:39:00 [backends.py:548] Dynamo bytecode transform time: 5.83 s"

WHOLE_LOAD = [
    NON_DEFAULT_ARGS,
    ARCHITECTURE,
    ENGINE,
    WORLD,
    LOADING,
    SHARDS_0,
    SHARDS_100,
    COMPILING,
    COMPILED,
    KV_CACHE,
    INIT_ENGINE,
    SERVING,
    COMPLETE,
]


@pytest.mark.parametrize(
    ("line", "load"),
    [
        (NON_DEFAULT_ARGS, Load("configure")),
        (ARCHITECTURE, Load("configure")),
        (ENGINE, Load("initialize")),
        (WORLD, Load("initialize")),
        (FETCHING, Load("download", 0.25, "1/4")),
        (DOWNLOADING, Load("download", 0.37, "1.85G/4.98G")),
        (SHARDS_0, Load("weights", 0.0, "0/1")),
        (SHARDS_100, Load("weights", 1.0, "1/1")),
        (COMPILING, Load("compile")),
        (COMPILED, Load("compile")),
        (DYNAMO, Load("compile")),
        (CAPTURING, Load("warm-up", 0.42, "28/67")),
        (CAPTURING_FULL, Load("warm-up", 1.0, "35/35")),
        (KV_CACHE, Load("warm-up")),
        (INIT_ENGINE, Load("warm-up")),
        (SERVING, Load("ready")),
        (COMPLETE, Load("ready")),
    ],
)
def test_a_line_tells_the_stage(line: str, load: Load) -> None:
    assert follow(Load(), [line]) == load


def test_an_engine_begins_at_launch() -> None:
    assert follow(Load(), []) == Load("launch", None)


@pytest.mark.parametrize(
    "line",
    [
        "",
        LOADING,  # the download may still be to come
        "Triton is installed, but doesn't include CPU backend. Disabling Triton.",
        "(Worker pid=2798) INFO 11-23 09:36:28 [base_loader.py:82] Initializing model took 0.19 s",
        'INFO:     127.0.0.1:47328 - "GET /health HTTP/1.1" 200 OK',
    ],
)
def test_an_unknown_line_changes_nothing(line: str) -> None:
    assert follow(Load("weights", 0.5), [line]) == Load("weights", 0.5)


@pytest.mark.parametrize("end", range(len(WHOLE_LOAD)))
def test_a_stage_never_goes_back(end: int) -> None:
    load = follow(Load(), WHOLE_LOAD[: end + 1])
    again = follow(load, WHOLE_LOAD[: end + 1])
    assert STAGES.index(again.stage) >= STAGES.index(load.stage)


def test_a_whole_load_ends_at_ready() -> None:
    assert follow(Load(), WHOLE_LOAD).stage == "ready"


def test_progress_follows_within_a_stage() -> None:
    assert follow(Load(), [SHARDS_100, SHARDS_0]) == Load("weights", 0.0, "0/1")


def test_reading_line_by_line_is_the_same_as_all_at_once() -> None:
    load = Load()
    for line in WHOLE_LOAD[:7]:
        load = follow(load, [line])
    assert load == follow(Load(), WHOLE_LOAD[:7])


def test_every_stage_but_the_first_is_told_by_some_line() -> None:
    lines = [*WHOLE_LOAD, FETCHING, CAPTURING]
    assert {follow(Load(), [line]).stage for line in lines} >= set(STAGES[1:])


def test_the_download_of_weights_is_seen() -> None:
    # The worker says that it starts to load the model, and downloads only then: vLLM 0.32,
    # v1/worker/gpu_model_runner.py load_model, then model_loader/default_loader.py.
    assert follow(Load(), [ENGINE, WORLD, LOADING, DOWNLOADING]) == Load(
        "download", 0.37, "1.85G/4.98G"
    )


def test_eager_mode_is_no_stage() -> None:
    line = (
        "(APIServer pid=2643) WARNING 11-23 09:36:09 [vllm.py:1703] Enforce eager set, disabling "
        "torch.compile, CUDAGraphs, and JIT kernel warmup."
    )
    assert follow(Load("configure"), [line]) == Load("configure")
