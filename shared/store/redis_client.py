"""What each part of the store on Redis does in the same way: run scripts, say that it is away."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import redis

from shared.errors import StoreUnavailable
from shared.store import scripts
from shared.store.keys import Keys

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="RedisPart")


class RedisPart:
    """A part of the store: a client, the names of its keys, and scripts on them."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._redis: Any = client  # redis-py types one method as sync and async at once
        self._keys = keys

    def _script(self, body: str) -> Callable[..., Any]:
        registered = self._redis.register_script(scripts.script(body))

        def run(*args: object) -> object:
            return registered(keys=[self._keys.prefix], args=args)

        return run

    def _now(self) -> float:
        seconds, micros = self._redis.time()
        return cast("float", seconds + micros / 1e6)

    def _listen(self, channel: str, timeout_s: float) -> Generator[str | None]:
        try:
            with self._redis.pubsub() as listening:
                listening.subscribe(channel)
                while True:
                    message = listening.get_message(timeout=timeout_s)
                    if message is None or message["type"] == "subscribe":
                        yield None
                    elif message["type"] == "message":
                        yield message["data"]
        except redis.RedisError as error:
            raise unavailable(error) from error


def flat(fields: dict[str, str]) -> list[str]:
    """Return hash fields as HSET takes them: name, value, name, value."""
    return [text for pair in fields.items() for text in pair]


def answering(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Have a method raise StoreUnavailable for whatever goes wrong with Redis."""

    @wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except redis.RedisError as error:
            raise unavailable(error) from error

    return call


def unavailable(error: redis.RedisError) -> StoreUnavailable:
    """Return the error for a Redis that does not answer or refuses."""
    away = isinstance(error, (redis.ConnectionError, redis.TimeoutError))
    return StoreUnavailable(f"Redis {'does not answer' if away else 'refuses'}: {error}")
