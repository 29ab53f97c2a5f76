"""Models by name on real vLLM: the official client with the fleet's address and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from openai import OpenAI

from shared.settings import ROOT
from tests.demo.fleet import Fleet
from tests.demo.waiting import until
from tests.e2e.conftest import CHAT_MODEL, EMBEDDING_MODEL

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
ON_DEMAND = "smollm2"  # of configs/models.yaml, as shipped


@pytest.fixture
def client(fleet: Fleet) -> OpenAI:
    return OpenAI(base_url=f"{fleet.base}/v1", api_key="unused", max_retries=0, timeout=600)


@pytest.mark.usefixtures("instances")
def test_one_client_reaches_every_model_by_its_name(client: OpenAI) -> None:
    assert {CHAT_MODEL, EMBEDDING_MODEL, ON_DEMAND} <= {model.id for model in client.models.list()}
    chat = client.chat.completions.create(model=CHAT_MODEL, messages=QUESTION, temperature=0)
    assert "Paris" in (chat.choices[0].message.content or "")
    text = client.completions.create(
        model=CHAT_MODEL, prompt="The capital of France is", temperature=0, max_tokens=12
    )
    assert text.choices[0].text
    response = client.responses.create(
        model=CHAT_MODEL, input="What is the capital of France?", temperature=0
    )
    assert "Paris" in response.output_text
    vectors = client.embeddings.create(model=EMBEDDING_MODEL, input=["a cat", "a kitten"]).data
    assert [len(item.embedding) for item in vectors] == [384] * 2


@pytest.mark.usefixtures("instances")
def test_score_rerank_and_messages_go_by_the_model_too(fleet: Fleet) -> None:
    texts = ["a database", "a kitten"]
    scored = _post(fleet, "score", model=EMBEDDING_MODEL, text_1="a cat", text_2=texts)
    database, kitten = (item["score"] for item in scored["data"])
    assert database < 0.4
    assert kitten > 0.7
    ranked = _post(fleet, "rerank", model=EMBEDDING_MODEL, query="a cat", documents=texts)
    assert [item["index"] for item in ranked["results"]] == [1, 0]
    said = _post(
        fleet, "messages", model=CHAT_MODEL, messages=QUESTION, max_tokens=32, temperature=0
    )
    assert "Paris" in said["content"][0]["text"]


def test_a_model_that_nobody_has_is_named_with_those_there_are(fleet: Fleet) -> None:
    answer = requests.post(
        f"{fleet.base}/v1/chat/completions",
        json={"model": "gpt-4", "messages": QUESTION},
        timeout=30,
    )
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["code"] == "model_not_found"
    assert "gpt-4" in error["message"]
    assert ON_DEMAND in error["message"]


def test_the_first_request_for_a_model_of_the_catalogue_starts_it(fleet: Fleet) -> None:
    assert f"name: {ON_DEMAND}" in (ROOT / "configs/models.yaml").read_text()
    body = {"model": ON_DEMAND, "messages": QUESTION, "temperature": 0, "stream": True}
    with requests.post(
        f"{fleet.base}/v1/chat/completions", json=body, stream=True, timeout=60
    ) as answer:  # comment lines come every few seconds: else these 60 s would be over
        assert answer.status_code == 200
        lines = [line.decode() for line in answer.iter_lines() if line]
    assert any(line.startswith(": loading") for line in lines), lines
    assert lines[-1] == "data: [DONE]"
    assert "Paris" in "".join(lines)
    replicas = _replicas(fleet)
    assert [record["status"] for record in replicas.values()] == ["running"]
    for instance_id in replicas:
        requests.delete(f"{fleet.base}/instances/{instance_id}?wait=60", timeout=90)
    assert until(lambda: _replicas(fleet) == {}, 10)


def _replicas(fleet: Fleet) -> dict[str, Any]:
    listed = requests.get(f"{fleet.base}/instances", timeout=30).json()
    return {name: record for name, record in listed.items() if record["catalogue"] == ON_DEMAND}


def _post(fleet: Fleet, path: str, **body: object) -> Any:
    answer = requests.post(f"{fleet.base}/v1/{path}", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()
