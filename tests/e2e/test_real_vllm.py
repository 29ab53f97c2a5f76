"""The main job on real vLLM with real models: chat, completions, embeddings, score, rerank."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import requests
from openai import OpenAI

from tests.demo.fleet import Fleet
from tests.demo.waiting import until
from tests.e2e.conftest import CHAT_MODEL, EMBEDDING_MODEL, create
from tests.integration.harness import processes_of

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def chat(fleet: Fleet, instances: dict[str, Any]) -> Iterator[OpenAI]:
    with client_of(fleet, instances[CHAT_MODEL]) as client:
        yield client


@pytest.fixture
def embedder(fleet: Fleet, instances: dict[str, Any]) -> Iterator[OpenAI]:
    with client_of(fleet, instances[EMBEDDING_MODEL]) as client:
        yield client


def client_of(fleet: Fleet, record: Any) -> OpenAI:
    """Return the official client, pointed at an instance."""
    base = f"{fleet.base}/proxy/{record['instance_id']}/v1"
    return OpenAI(base_url=base, api_key="unused", max_retries=0)


def test_two_models_run_at_once(fleet: Fleet, instances: dict[str, Any]) -> None:
    listed = requests.get(f"{fleet.base}/instances", timeout=30).json()
    for record in instances.values():
        assert listed[record["instance_id"]]["status"] == "running"
    assert len({record["port"] for record in instances.values()}) == 2


def test_the_shipped_configuration_starts_todays_vllm(instances: dict[str, Any]) -> None:
    assert instances[CHAT_MODEL]["params"] == {
        "dtype": "auto",
        "kv_cache_dtype": "auto",
        "trust_remote_code": True,
        "gpu_memory_utilization": 0.9,
        "max_num_seqs": 256,
        "seed": 42,
        "max_model_len": 1024,
        "enforce_eager": True,
    }


def test_models_lists_the_name_it_was_created_with(chat: OpenAI) -> None:
    assert [model.id for model in chat.models.list()] == [CHAT_MODEL]


def test_a_chat_answer_names_paris(chat: OpenAI) -> None:
    answer = chat.chat.completions.create(
        model=CHAT_MODEL,
        messages=QUESTION,
        temperature=0,
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.usage
    assert answer.usage.completion_tokens > 0


def test_a_streamed_chat_answer_comes_in_pieces_and_names_paris(chat: OpenAI) -> None:
    with chat.chat.completions.create(
        model=CHAT_MODEL, messages=QUESTION, temperature=0, stream=True
    ) as stream:
        pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
    said = [piece for piece in pieces if piece]
    assert len(said) >= 5
    assert "Paris" in "".join(said)


def test_completions_streamed_and_not_say_the_same(chat: OpenAI) -> None:
    prompt = "The capital of France is"
    whole = chat.completions.create(
        model=CHAT_MODEL, prompt=prompt, temperature=0, max_tokens=12, seed=1
    )
    with chat.completions.create(
        model=CHAT_MODEL, prompt=prompt, temperature=0, max_tokens=12, seed=1, stream=True
    ) as stream:
        pieces = [chunk.choices[0].text for chunk in stream if chunk.choices]
    assert whole.choices[0].text
    assert "".join(pieces) == whole.choices[0].text


def test_an_error_of_the_engine_comes_through_as_it_is(
    fleet: Fleet, instances: dict[str, Any]
) -> None:
    url = f"{fleet.base}/proxy/{instances[CHAT_MODEL]['instance_id']}/v1/chat/completions"
    answer = requests.post(url, json={"model": "nobody", "messages": QUESTION}, timeout=60)
    assert answer.status_code == 404
    assert "nobody" in answer.json()["error"]["message"]


def test_embeddings_put_like_beside_like(embedder: OpenAI) -> None:
    words = ["a cat", "a kitten", "a database"]
    vectors = [
        item.embedding
        for item in embedder.embeddings.create(model=EMBEDDING_MODEL, input=words).data
    ]
    assert [len(vector) for vector in vectors] == [384] * 3
    cat, kitten, database = vectors
    assert cosine(cat, kitten) > 0.7
    assert cosine(cat, database) < 0.4


def test_score_and_rerank_put_the_kitten_first(fleet: Fleet, instances: dict[str, Any]) -> None:
    engine = f"{fleet.base}/proxy/{instances[EMBEDDING_MODEL]['instance_id']}"
    texts = ["a database", "a kitten"]
    scored = requests.post(
        f"{engine}/v1/score",
        json={"model": EMBEDDING_MODEL, "text_1": "a cat", "text_2": texts},
        timeout=60,
    ).json()
    database, kitten = (item["score"] for item in scored["data"])
    assert kitten > 0.7
    assert database < 0.4
    ranked = requests.post(
        f"{engine}/v1/rerank",
        json={"model": EMBEDDING_MODEL, "query": "a cat", "documents": texts},
        timeout=60,
    ).json()
    assert [item["index"] for item in ranked["results"]] == [1, 0]


def test_a_caller_who_leaves_frees_the_engine(fleet: Fleet, instances: dict[str, Any]) -> None:
    engine = f"{fleet.base}/proxy/{instances[CHAT_MODEL]['instance_id']}"
    body = {
        "model": CHAT_MODEL, "prompt": "Once", "max_tokens": 900, "ignore_eos": True, "stream": True
    }  # fmt: skip
    with requests.post(f"{engine}/v1/completions", json=body, stream=True, timeout=60) as answer:
        next(answer.iter_lines(chunk_size=1))
        assert running_in(engine) == 1
    assert until(lambda: running_in(engine) == 0, 2)


def test_idle_and_deleted_leave_nothing_behind(fleet: Fleet, instances: dict[str, Any]) -> None:
    body = {"model_name": EMBEDDING_MODEL, "params": {"enforce_eager": True}, "timeout": 1}
    records = [create(fleet, body), instances[EMBEDDING_MODEL]]
    idle, deleted = (record["instance_id"] for record in records)
    assert until(lambda: record_of(fleet, idle)["status"] == "stopped", 60)
    assert record_of(fleet, idle)["reason"] == "idle for 1 s, its timeout"
    answer = requests.delete(f"{fleet.base}/instances/{deleted}?wait=60", timeout=90)
    assert answer.json()["status"] == "deleted"
    for record in records:
        assert processes_of(fleet.run_dir / "engines" / record["instance_id"]) == []
        with socket.socket() as probe:
            assert probe.connect_ex((record["host"], record["port"])) != 0
    with redis.Redis(unix_socket_path=str(fleet.run_dir / "redis/redis.sock")) as store:
        for instance_id in (idle, deleted):
            for key in store.scan_iter(f"*{instance_id}*"):
                assert 0 < store.ttl(key) <= 86_400, key
            assert not store.hexists(f"fleet:instance:{instance_id}", "engine_key")
            assert store.zscore("fleet:expiry", instance_id) is None
            for held in store.scan_iter("fleet:claims:*"):
                assert not store.hexists(held, instance_id)


def record_of(fleet: Fleet, instance_id: str) -> Any:
    """Return an instance's record."""
    return requests.get(f"{fleet.base}/instances/{instance_id}", timeout=30).json()


def running_in(engine: str) -> float:
    """Return how many requests run in an engine, as it counts them itself."""
    text = requests.get(f"{engine}/metrics", timeout=30).text
    line = next(line for line in text.splitlines() if line.startswith("vllm:num_requests_running"))
    return float(line.split()[-1])


def cosine(a: list[float], b: list[float]) -> float:
    """Return the cosine of the angle between two vectors."""
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
