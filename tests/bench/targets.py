"""What is measured: how each target is started, reached, and checked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from shared.settings import ROOT
from tests.bench.fleet import Fleet
from tests.bench.peers import Peer

_BIN = Path(sys.executable).parent


class Check(StrEnum):
    """What the load generator verifies of each answer."""

    BYTES = "bytes"  # every byte of it, and that the engine got every byte of the request
    ANSWER = "answer"  # every byte of it; the proxy writes requests anew
    TEXT = "text"  # the text, its order and its end; the proxy writes answers anew too


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a target is started with."""

    folder: Path  # for its files
    port: int  # where it is to listen
    engine_port: int
    engine_key: str
    fleet: Fleet
    peers: Mapping[str, Peer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one target is run."""

    command: tuple[str | Path, ...] = ()  # empty: the engine itself
    env: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""  # before the engine's own paths
    bearer: str  # what its callers show
    cwd: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thing to measure."""

    name: str
    says: str  # for the report
    plan: Callable[[Site], Plan]
    check: Check = Check.BYTES
    unable: Mapping[str, str] = field(default_factory=dict)  # scenario: why not
    any_cpu: bool = False  # not pinned to the proxy's
    only: frozenset[str] | None = None  # the scenarios it takes part in; None: all


def _direct(site: Site) -> Plan:
    return Plan(bearer=site.engine_key)


_NGINX = """\
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err warn;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_timeout 75; keepalive_requests 1000000000; client_max_body_size 64m;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  upstream engine {{
    server 127.0.0.1:{engine_port}; keepalive 1024; keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_read_timeout 3600;
      proxy_set_header Connection ""; proxy_set_header Authorization "Bearer {engine_key}";
      proxy_buffering off; proxy_request_buffering off;
    }}
  }}
}}
"""


def _nginx(site: Site) -> Plan:
    config = site.folder / "nginx.conf"
    config.write_text(
        _NGINX.format(
            folder=site.folder,
            port=site.port,
            engine_port=site.engine_port,
            engine_key=site.engine_key,
        )
    )
    command = (site.peers["nginx"].program, "-p", site.folder, "-c", config, "-e", "stderr")
    return Plan(command=command, bearer="any")


def _vllm_router(site: Site) -> Plan:
    words = (
        "--host 127.0.0.1", f"--port {site.port}", "--policy round_robin",
        f"--worker-urls http://127.0.0.1:{site.engine_port}", "--log-level warning",
        f"--prometheus-port {site.port + 1}", "--request-timeout-secs 600",
    )  # fmt: skip
    return Plan(
        command=(site.peers["vllm_router"].program, *" ".join(words).split()),
        bearer=site.engine_key,
    )


_LITELLM = """\
model_list:
  - model_name: m
    litellm_params:
      model: openai/m
      api_base: http://127.0.0.1:{engine_port}/v1
      api_key: {engine_key}
litellm_settings: {{telemetry: false, num_retries: 0}}
"""


def _litellm(site: Site) -> Plan:
    config = site.folder / "litellm.yaml"
    config.write_text(_LITELLM.format(engine_port=site.engine_port, engine_key=site.engine_key))
    env = {
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # loopback only
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # nothing is fetched
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "HOME": str(site.folder),
    }
    words = f"--host 127.0.0.1 --port {site.port} --num_workers 1 --telemetry False".split()
    return Plan(
        command=(site.peers["litellm"].program, "--config", config, *words), env=env, bearer="any"
    )


def _ours(*options: str, processes: int = 1, **env: str) -> Callable[[Site], Plan]:
    def plan(site: Site) -> Plan:
        config = ROOT / "configs/gunicorn.conf.py"
        return Plan(
            command=(_BIN / "gunicorn", "--config", config, *options, "web.wsgi:app"),
            env={**site.fleet.env(site.port, processes), **env},
            prefix=site.fleet.prefix,
            bearer=site.fleet.api_key,
            cwd=ROOT,
        )

    return plan


def _ours_by_model(site: Site) -> Plan:
    return replace(_ours()(site), prefix="")  # /v1/...: the body says which model


_NO_COMPLETION = "passes on nothing but completions in OpenAI's shape"
_LITELLM_UNABLE = {"down8m": _NO_COMPLETION, "down128m": _NO_COMPLETION}

TARGETS: tuple[Target, ...] = (
    Target(name="direct", says="the synthetic engine, no proxy", plan=_direct),
    Target(name="nginx", says="nginx, as usually configured for streaming", plan=_nginx),
    Target(name="ours", says="vLLM Fleet's web tier, everything on", plan=_ours()),
    Target(
        name="ours_v1",
        says="the same, asked for a model at `/v1` instead of an instance at `/proxy`",
        plan=_ours_by_model,
        only=frozenset({"json16", "json64", "json1", "sse16", "sse512"}),
    ),
    Target(
        name="view",
        says="its Flask view under gunicorn's threaded worker",
        plan=_ours("--worker-class", "gthread", WEB_THREADS="640"),  # one for each of 512 streams
    ),
    Target(name="vllm_router", says="vllm-router (Rust)", plan=_vllm_router, check=Check.ANSWER),
    Target(
        name="litellm",
        says="LiteLLM's proxy",
        plan=_litellm,
        check=Check.TEXT,
        unable=_LITELLM_UNABLE,
    ),
    Target(name="one_process", says="ours, one process, any core", plan=_ours(), any_cpu=True),
    Target(
        name="two_processes",
        says="ours, two processes, any core",
        plan=_ours(processes=2),
        any_cpu=True,
    ),
)

BY_NAME: Mapping[str, Target] = {target.name: target for target in TARGETS}
