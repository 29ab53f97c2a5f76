"""The Prometheus text of /metrics, with the names and labels of vLLM 0.32."""

from .journal import Load


def exposition(model: str, load: Load) -> str:
    """Return the metrics of the engine that serves `model`."""
    labels = f'engine="0",model_name="{model}"'
    tokens = "vllm:iteration_tokens_total"
    return f"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{{labels}}} {float(load.running)}
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{{labels}}} 0.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{{labels}}} {min(1.0, load.running / 100)}
# HELP {tokens} Histogram of number of tokens per engine_step.
# TYPE {tokens} histogram
{tokens}_bucket{{{labels},le="1.0"}} {float(load.iterations)}
{tokens}_bucket{{{labels},le="+Inf"}} {float(load.iterations)}
{tokens}_count{{{labels}}} {float(load.iterations)}
{tokens}_sum{{{labels}}} {float(load.iterations)}
"""
