"""Ask an engine how it is, over its own HTTP."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from time import monotonic
from urllib.parse import urlsplit

import requests

from shared.domain.health import Answer, Vitals

_READY_EVERY_S = 0.1
_READY_TIMEOUT_S = 10.0  # a busy engine takes seconds to answer; one that loads refuses at once
_UNFINISHED_TIMEOUT_S = 5.0  # a busy engine again; a hung one is not waited for longer
_OK = 200
_FOR_ONE_TOKEN: tuple[tuple[str, dict[str, object]], ...] = (
    # Ids, as a prompt in words needs a tokenizer (`--skip-tokenizer-init`); every model has a 0.
    ("/v1/completions", {"prompt": [0], "max_tokens": 1}),
    # vLLM 0.32, entrypoints/pooling/factories.py: which of these there are goes by the model's task
    ("/v1/embeddings", {"input": [0]}),
    ("/pooling", {"input": [0]}),
)
# Asked of the core itself, where an engine has these at all (vLLM 0.32, serve/dev and rl).
_AT_REST = (("/is_sleeping", "is_sleeping"), ("/is_paused", "is_paused"))
_AT_REST_TIMEOUT_S = 5.0
_VALUE = r"(?:\{[^}]*\})? ([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)$"
_UNFINISHED = re.compile(rf"^vllm:num_requests_(?:running|waiting){_VALUE}", re.MULTILINE)
_RUNNING = re.compile(rf"^vllm:num_requests_running{_VALUE}", re.MULTILINE)
_WAITING = re.compile(rf"^vllm:num_requests_waiting{_VALUE}", re.MULTILINE)
_STEPS = re.compile(rf"^vllm:iteration_tokens_total_count{_VALUE}", re.MULTILINE)


def is_ready(base_url: str, key: str, names: Sequence[str]) -> bool:
    """Return whether the engine answers, takes our key, and lists our first model name.

    The key makes sure that it is this engine and no other that got the port.
    """
    with _session() as session:
        try:
            health = session.get(f"{base_url}/health", timeout=_READY_TIMEOUT_S)
            if health.status_code != _OK:
                return False
            models = session.get(
                f"{base_url}/v1/models",
                headers={"Authorization": f"Bearer {key}"},
                timeout=_READY_TIMEOUT_S,
            )
            listed = {model["id"] for model in models.json()["data"]}
        except (requests.RequestException, ValueError, KeyError, TypeError):
            return False
    return names[0] in listed


def becomes_ready(base_url: str, key: str, names: Sequence[str], for_s: float) -> bool:
    """Ask for `for_s` seconds, again and again, whether the engine `is_ready`; return whether so.

    While nobody listens at its port, which is most of a load, asking costs next to nothing.
    """
    deadline = monotonic() + for_s
    while True:
        if _listens(base_url) and is_ready(base_url, key, names):
            return True
        if monotonic() + _READY_EVERY_S > deadline:
            return False
        Event().wait(_READY_EVERY_S)


def unfinished_requests(base_url: str) -> float | None:
    """Return how many requests run or wait in the engine; None if it does not say."""
    with _session() as session:
        try:
            text = session.get(f"{base_url}/metrics", timeout=_UNFINISHED_TIMEOUT_S).text
        except requests.RequestException:
            return None
    found = _UNFINISHED.findall(text)
    return sum(map(float, found)) if found else None


def vitals(base_url: str, timeout_s: float) -> Vitals | None:
    """Return what the engine says of its requests and steps; None if it does not answer.

    One that answers without these numbers (`--disable-log-stats`) has nothing running, as far as
    anybody can tell, and says nothing of its steps.
    """
    with _session() as session:
        try:
            text = session.get(f"{base_url}/metrics", timeout=timeout_s).text
        except requests.RequestException:
            return None
    steps = _STEPS.findall(text)
    return Vitals(
        running=sum(map(float, _RUNNING.findall(text))),
        steps=sum(map(float, steps)) if steps else None,
        waiting=sum(map(float, _WAITING.findall(text))),
    )


def one_token(base_url: str, key: str, name: str, timeout_s: float) -> Answer:
    """Ask the engine for the least that its core can be asked for; return what came of it.

    A 200 has come through EngineCore. What the API server refuses by itself proves nothing of it:
    a path that this model is not asked at, a request that it does not take. Nor does the silence of
    one that was put to sleep or paused, and says so.

    Args:
        base_url: of the engine.
        key: of the engine.
        name: of the model, as it is served.
        timeout_s: after which there counts as being no answer.
    """
    with _session() as session:
        for path, body in _FOR_ONE_TOKEN:
            try:
                answer = session.post(
                    f"{base_url}{path}",
                    json={"model": name, **body},
                    headers={"Authorization": f"Bearer {key}"},
                    timeout=timeout_s,
                )
            except requests.ReadTimeout:
                at_rest = _is_at_rest(session, base_url, key)
                return Answer.UNTELLING if at_rest else Answer.NONE
            except requests.RequestException:
                return Answer.UNTELLING
            if answer.status_code == _OK:
                return Answer.GIVEN
    return Answer.UNTELLING


def _is_at_rest(session: requests.Session, base_url: str, key: str) -> bool:
    for path, name in _AT_REST:
        try:
            answer = session.get(
                f"{base_url}{path}",
                headers={"Authorization": f"Bearer {key}"},
                timeout=_AT_REST_TIMEOUT_S,
            )
            said = answer.json() if answer.status_code == _OK else {}
        except (requests.RequestException, ValueError):
            continue
        if isinstance(said, dict) and said.get(name) is True:
            return True
    return False


def _listens(base_url: str) -> bool:
    address = urlsplit(base_url)
    try:
        socket.create_connection((address.hostname, address.port), timeout=_READY_TIMEOUT_S).close()
    except OSError:
        return False
    return True


@contextmanager
def _session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False  # no proxy and no .netrc between a worker and its own engine
        yield session
