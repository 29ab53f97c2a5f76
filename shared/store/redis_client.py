"""What each part of the store on Redis does in the same way: run scripts, say that it is away."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import redis

from shared.errors import StoreUnavailable
from shared.store import scripts
from shared.store.keys import Keys

_MOST_TOGETHER = 500  # names: who hears them reads them in one go

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

    def _listen(self, channel: str, timeout_s: float) -> Generator[frozenset[str]]:
        try:
            with self._redis.pubsub() as listening:
                listening.subscribe(channel)
                while True:
                    names = set()
                    message = listening.get_message(timeout=timeout_s)
                    while message is not None:
                        if message["type"] == "message":
                            names.add(message["data"])
                        ready = len(names) < _MOST_TOGETHER
                        message = listening.get_message(timeout=0.0) if ready else None
                    yield frozenset(names)
        except redis.RedisError as error:
            raise unavailable(error) from error


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


def flat(fields: Mapping[str, str]) -> list[str]:
    """Return hash fields and values in turn, as HSET takes them."""
    return [text for pair in fields.items() for text in pair]
