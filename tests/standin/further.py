"""Further OpenAI-like routes, each with the smallest answer that its clients take."""

import itertools
import json
import os
import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

from .flags import Flags
from .replies import Reply, compact, error_reply, json_reply, stream_reply
from .server import Exchange

_MODEL_FIELD: Final = re.compile(rb'name="model"\r\n\r\n([^\r\n]*)\r\n')

Json = dict[str, Any]


class Further:
    """Handlers; they refuse a model that is not served, as vLLM does."""

    def __init__(self, flags: Flags) -> None:
        self._names = flags.served_names
        self._gap_s = flags.token_gap
        self._numbers = itertools.count(1)
        self._stored: dict[str, Json] = {}

    def responses(self, exchange: Exchange) -> Reply:
        """Make a response and keep it, whatever `store` says."""
        asked = _asked(exchange)
        if refused := self._refused(asked.get("model")):
            return refused
        response_id = f"resp_{os.getpid():x}{next(self._numbers):08x}"
        previous = asked.get("previous_response_id")
        if previous and previous not in self._stored:
            return _no_response(previous)
        made = _response(response_id, str(asked.get("model")), previous, "token0 token1 ")
        self._stored[response_id] = made
        if not asked.get("stream"):
            return json_reply(HTTPStatus.OK, made)

        def events() -> Iterator[bytes]:
            begun = made | {"status": "in_progress", "output": []}
            item = made["output"][0]
            place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
            told: list[Json] = [
                {"type": "response.created", "response": begun},
                *(
                    {"type": "response.output_text.delta", **place, "delta": text, "logprobs": []}
                    for text in ("token0 ", "token1 ")
                ),
                {"type": "response.completed", "response": made},
            ]
            for number, event in enumerate(told):
                exchange.wait(self._gap_s)
                data = compact({**event, "sequence_number": number}).decode()
                yield f"event: {event['type']}\ndata: {data}\n\n".encode()

        return stream_reply("text/event-stream; charset=utf-8", events())

    def stored_response(self, exchange: Exchange) -> Reply:
        """Return a response that was made here; with `/cancel` at its end as cancelled."""
        response_id, _, action = exchange.path.removeprefix("/v1/responses/").partition("/")
        found = self._stored.get(response_id)
        if found is None:
            return _no_response(response_id)
        status = {"status": "cancelled"} if action == "cancel" else {}
        return json_reply(HTTPStatus.OK, found | status)

    def transcriptions(self, exchange: Exchange) -> Reply:
        """Say how long the upload was."""
        body = b"".join(exchange.body)
        found = _MODEL_FIELD.search(body)
        if refused := self._refused(found[1].decode() if found else None):
            return refused
        return json_reply(HTTPStatus.OK, {"text": f"{len(body)} bytes were heard"})

    def rerank(self, exchange: Exchange) -> Reply:
        """Rank documents as they came."""
        asked = _asked(exchange)
        if refused := self._refused(asked.get("model")):
            return refused
        results = [
            {"index": index, "document": {"text": text}, "relevance_score": 1.0 / (1 + index)}
            for index, text in enumerate(asked.get("documents", []))
        ]
        return json_reply(HTTPStatus.OK, {"id": "rerank-1", "results": results})

    def score(self, exchange: Exchange) -> Reply:
        """Score each pair the same."""
        asked = _asked(exchange)
        if refused := self._refused(asked.get("model")):
            return refused
        data = [{"index": 0, "object": "score", "score": 0.5}]
        return json_reply(HTTPStatus.OK, {"id": "score-1", "object": "list", "data": data})

    def messages(self, exchange: Exchange) -> Reply:
        """Answer in Anthropic's shape."""
        asked = _asked(exchange)
        if refused := self._refused(asked.get("model")):
            return refused
        content = [{"type": "text", "text": "token0 "}]
        answer = {"id": "msg_1", "type": "message", "role": "assistant", "content": content}
        usage = {"input_tokens": 1, "output_tokens": 1}
        return json_reply(HTTPStatus.OK, {**answer, "model": asked["model"], "usage": usage})

    def _refused(self, model: object) -> Reply | None:
        if model in self._names:
            return None
        message = f"The model `{model}` does not exist."
        return error_reply(HTTPStatus.NOT_FOUND, message, "NotFoundError", "model")


def _asked(exchange: Exchange) -> Json:
    found = json.loads(b"".join(exchange.body))
    return found if isinstance(found, dict) else {}


def _no_response(response_id: str) -> Reply:
    message = f"Response with id '{response_id}' not found."
    return error_reply(HTTPStatus.NOT_FOUND, message, "invalid_request_error", "response_id")


def _response(response_id: str, model: str, previous: str | None, text: str) -> Json:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    item = {"id": f"msg_{response_id}", "type": "message", "role": "assistant"}
    return {
        "id": response_id,
        "object": "response",
        "created_at": 0,
        "status": "completed",
        "model": model,
        "output": [{**item, "status": "completed", "content": content}],
        "previous_response_id": previous,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
