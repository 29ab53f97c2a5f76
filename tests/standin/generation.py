"""The OpenAI routes: the same tokens for every prompt, at the pace the flags ask for."""

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, Final

from .flags import Flags
from .journal import Journal
from .replies import Reply, compact, error_reply, event_reply, json_reply
from .server import Exchange
from .spawn import is_frozen

_DEFAULT_TOKENS: Final = 8
_STALL_AFTER: Final = 2  # chunks
_FROZEN_LOOK_S: Final = 0.1
_EMBEDDING_SIZE: Final = 8

Json = dict[str, Any]


class _RefusedError(Exception):
    """The request cannot be served; holds the answer that says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class Generation:
    """Handlers of the routes under /v1."""

    def __init__(self, flags: Flags, journal: Journal, core: int) -> None:
        self._flags = flags
        self._core = core  # pid of EngineCore
        self._journal = journal
        self._started_at = int(time.time())
        self._numbers = itertools.count(1)

    def models(self, _exchange: Exchange) -> Reply:
        """List the served names."""
        entries = [
            {
                "id": name,
                "object": "model",
                "created": self._started_at,
                "owned_by": "vllm",
                "root": self._flags.model,
                "parent": None,
                "max_model_len": _integer_or(self._flags.max_model_len, 2048),
            }
            for name in self._flags.served_names
        ]
        return json_reply(HTTPStatus.OK, {"object": "list", "data": entries})

    def chat(self, exchange: Exchange) -> Reply:
        """Answer a chat with `max_tokens` tokens, at once or as a stream."""

        def choice(text: str, position: int, *, streamed: bool) -> Json:
            role = {"role": "assistant"} if position == 0 or not streamed else {}
            return {"delta" if streamed else "message": {**role, "content": text}}

        return self._generate(exchange, "chat.completion", "chatcmpl", choice)

    def completions(self, exchange: Exchange) -> Reply:
        """Continue a prompt with `max_tokens` tokens, at once or as a stream."""

        def choice(text: str, _position: int, *, streamed: bool) -> Json:  # noqa: ARG001
            return {"text": text}

        return self._generate(exchange, "text_completion", "cmpl", choice)

    def embeddings(self, exchange: Exchange) -> Reply:
        """Return a small vector for each input, equal for equal inputs."""
        try:
            asked = self._asked(exchange)
        except _RefusedError as refused:
            return refused.reply
        self._admit(exchange)
        given = asked.get("input", "")
        data = [
            {"object": "embedding", "index": index, "embedding": _vector(json.dumps(text))}
            for index, text in enumerate(given if isinstance(given, list) else [given])
        ]
        self._journal.count_token()
        usage = _usage(_words(given), 0)
        model = self._flags.served_names[0]
        answer = {"id": f"embd-{next(self._numbers)}", "object": "list", "model": model}
        return json_reply(HTTPStatus.OK, {**answer, "data": data, "usage": usage})

    def _generate(
        self, exchange: Exchange, kind: str, prefix: str, choice: Callable[..., Json]
    ) -> Reply:
        """Answer with the shape that `choice` gives to a text."""
        try:
            asked = self._asked(exchange)
            count = _token_count(asked)
        except _RefusedError as refused:
            return refused.reply
        self._admit(exchange)
        usage = _usage(_words(asked.get("messages", asked.get("prompt", ""))), count)
        base = {
            "id": f"{prefix}-{next(self._numbers)}",
            "created": int(time.time()),
            "model": asked.get("model") or self._flags.served_names[0],
        }
        if not asked.get("stream"):
            text = "".join(self._tokens(exchange, count, streamed=False))
            shaped = {"index": 0, **choice(text, 0, streamed=False), "finish_reason": "length"}
            return json_reply(
                HTTPStatus.OK, {**base, "object": kind, "choices": [shaped], "usage": usage}
            )

        def events() -> Iterator[str]:
            chunk = {**base, "object": f"{kind}.chunk" if kind.startswith("chat") else kind}
            for position, token in enumerate(self._tokens(exchange, count, streamed=True)):
                reason = "length" if position == count - 1 else None
                shaped = choice(token, position, streamed=True)
                choices = [{"index": 0, **shaped, "finish_reason": reason}]
                yield compact({**chunk, "choices": choices}).decode()
            if (asked.get("stream_options") or {}).get("include_usage"):
                yield compact({**chunk, "choices": [], "usage": usage}).decode()
            yield "[DONE]"

        return event_reply(events())

    def _asked(self, exchange: Exchange) -> Json:
        """Return the request's JSON object, for a model that is served here."""
        try:
            asked = json.loads(b"".join(exchange.body))
        except ValueError as error:
            raise _RefusedError(_bad_request(f"Invalid JSON: {error}")) from error
        if not isinstance(asked, dict):
            raise _RefusedError(_bad_request("Input should be a valid dictionary"))
        model = asked.get("model")
        if model and model not in self._flags.served_names:
            message = f"The model `{model}` does not exist."
            raise _RefusedError(
                error_reply(HTTPStatus.NOT_FOUND, message, "NotFoundError", "model")
            )
        return asked

    def _admit(self, exchange: Exchange) -> None:
        """Count the request as running until it is answered; under --hang, never return.

        It is EngineCore that counts, so what comes while that is frozen is not counted: not seen.
        """
        while is_frozen(self._core):
            exchange.wait(_FROZEN_LOOK_S)
        hang = self._flags.hang
        exchange.until_answered.enter_context(self._journal.running(for_good=hang))
        if hang:
            exchange.wait(None)

    def _tokens(self, exchange: Exchange, count: int, *, streamed: bool) -> Iterator[str]:
        """Yield the tokens at their pace; raise ClientGoneError as soon as the client leaves."""
        exchange.wait(self._flags.first_token_delay)
        for position in range(count):
            if position:
                exchange.wait(self._flags.token_gap)
            if streamed and self._flags.stall_stream and position == _STALL_AFTER:
                exchange.wait(None)
            self._journal.count_token()
            yield f"token{position} "


def _token_count(asked: Json) -> int:
    count = asked.get("max_completion_tokens") or asked.get("max_tokens", _DEFAULT_TOKENS)
    if count is None:
        return _DEFAULT_TOKENS
    if not isinstance(count, int) or count < 1:
        message = f"max_tokens must be at least 1, got {count}."
        raise _RefusedError(_bad_request(message, "max_tokens"))
    return count


def _bad_request(message: str, param: str | None = None) -> Reply:
    return error_reply(HTTPStatus.BAD_REQUEST, message, "BadRequestError", param)


def _usage(prompt: int, completion: int) -> Json:
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


def _words(prompt: object) -> int:
    """Return the length of any shape of prompt, a word counting as a token."""
    return len(json.dumps(prompt).split())


def _vector(text: str) -> list[float]:
    return [byte / 255 for byte in hashlib.sha256(text.encode()).digest()[:_EMBEDDING_SIZE]]


def _integer_or(text: str, default: int) -> int:
    """Return `text` as a number; vLLM also takes words such as `auto` and `8k` here."""
    return int(text) if text.isdecimal() else default
