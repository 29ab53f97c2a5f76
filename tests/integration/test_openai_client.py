"""The official OpenAI client with `base_url=http://HOST/v1` and nothing else, against stand-ins."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from openai import NotFoundError, OpenAI

from tests.demo.waiting import until
from tests.integration.harness import LocalFleet, local_fleet

CHAT, WORDS = "org/chat", "org/words"
QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """Run two replicas of one model and one of another, behind two web processes."""
    with local_fleet(tmp_path_factory.mktemp("openai")) as fleet:
        fleet.start_worker("one")
        fleet.start_web(WEB_PROCESSES="2")
        for model, name in ((CHAT, "chat"), (CHAT, "chat"), (WORDS, "words")):
            fleet.create(model, served_model_name=[model, name])
        yield fleet


@pytest.fixture
def client(two_models: LocalFleet) -> Iterator[OpenAI]:
    base = f"{two_models.base}/v1"
    with OpenAI(base_url=base, api_key="unused", max_retries=0) as client:
        assert until(lambda: len(list(client.models.list())) == 4, 20)
        yield client


def test_models_are_listed_and_looked_up(client: OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {CHAT, "chat", WORDS, "words"}
    found = client.models.retrieve(CHAT)
    assert (found.id, found.object, found.owned_by) == (CHAT, "model", "vllm-fleet")


@pytest.mark.parametrize("name", [CHAT, "chat"])
def test_chat(client: OpenAI, name: str) -> None:
    answer = client.chat.completions.create(model=name, messages=QUESTION, max_tokens=3)
    assert (answer.choices[0].message.content, answer.model) == ("token0 token1 token2 ", name)


def test_chat_streams(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=CHAT, messages=QUESTION, max_tokens=4, stream=True
    )
    said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert said == "token0 token1 token2 token3 "


def test_completions(client: OpenAI) -> None:
    answer = client.completions.create(model=WORDS, prompt="Paris is", max_tokens=2)
    assert answer.choices[0].text == "token0 token1 "


def test_embeddings(client: OpenAI) -> None:
    found = client.embeddings.create(model=WORDS, input=["one", "two"])
    assert len(found.data) == 2
    assert len(found.data[0].embedding) == 8


def test_responses_go_on_where_they_were_made(client: OpenAI) -> None:
    for _ in range(6):  # by one process or the other, by one replica or the other
        made = client.responses.create(model=CHAT, input="hello")
        assert made.output_text == "token0 token1 "
        assert client.responses.retrieve(made.id).id == made.id
        more = client.responses.create(model=CHAT, input="and?", previous_response_id=made.id)
        assert more.previous_response_id == made.id
        assert client.responses.cancel(more.id).status == "cancelled"


def test_responses_stream(client: OpenAI) -> None:
    made_id, said = "", ""
    for event in client.responses.create(model=CHAT, input="hello", stream=True):
        if event.type == "response.created":
            made_id = event.response.id
        if event.type == "response.output_text.delta":
            said += event.delta
    assert said == "token0 token1 "
    assert client.responses.retrieve(made_id).status == "completed"


def test_a_response_that_nobody_made_is_not_found(client: OpenAI) -> None:
    with pytest.raises(NotFoundError, match="resp_none"):
        client.responses.retrieve("resp_none")


def test_audio_is_uploaded(client: OpenAI) -> None:
    sound = io.BytesIO(b"RIFF" + bytes(3_000_000))
    heard = client.audio.transcriptions.create(model=WORDS, file=("a.wav", sound))
    assert heard.text.startswith("3000")


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4", messages=QUESTION)
    assert caught.value.code == "model_not_found"
    assert CHAT in str(caught.value)


@pytest.mark.parametrize(
    ("path", "asked", "expected"),
    [
        ("/v1/rerank", {"query": "a", "documents": ["b", "c"]}, "results"),
        ("/v1/score", {"text_1": "a", "text_2": "b"}, "data"),
        ("/v1/messages", {"messages": QUESTION, "max_tokens": 1}, "content"),
    ],
)
def test_what_is_not_openais(
    client: OpenAI, two_models: LocalFleet, path: str, asked: dict[str, Any], expected: str
) -> None:
    assert client
    answer = two_models.call("POST", path, json={"model": WORDS, **asked})
    assert answer.status_code == 200, answer.text
    assert answer.json()[expected]
