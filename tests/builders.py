"""Values for tests, whole and valid; a test names only what it is about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from shared.domain.instance import Instance
from shared.domain.key import Key, Scope, new_secret
from shared.domain.node import Gpu, Node
from shared.queue import Doorbells, celery_app
from shared.settings import Settings
from shared.store.redis import connect


def an_instance(**changes: Any) -> Instance:
    """Return a pending instance of `org/tiny` on the node `one`, with `changes`."""
    plain = Instance(
        instance_id="tiny-aaaaaaaa", model_name="org/tiny", params={}, timeout=600, node="one"
    )
    return replace(plain, **changes)


def a_node(**changes: Any) -> Node:
    """Return the living node `one` with room for three instances and no GPUs, with `changes`."""
    plain = Node(name="one", address="127.0.0.1", max_instances=3, heartbeat_age_s=1.0)
    return replace(plain, **changes)


def a_gpu(index: int) -> Gpu:
    """Return the device with that index; its UUID is `GPU-` and the index."""
    return Gpu(index=index, uuid=f"GPU-{index}", name="H100", total_mib=81_559)


def settings(**env: str) -> Settings:
    """Return the settings that an environment of only these variables gives."""
    return Settings.from_env(env)


def silent_doorbells() -> Doorbells:
    """Return doorbells that nobody hears: there is no Redis."""
    app = celery_app(settings(), keep_results=False)
    return Doorbells(app, connect("unix:///nowhere/redis.sock"))


def a_key(**changes: Any) -> tuple[Key, bytes]:
    """Return a new admin key of `ann`, with `changes`, and what she sends."""
    secret = new_secret()
    plain = Key(key_id=secret.key_id, name="ann", scope=Scope.ADMIN, digest=secret.digest)
    return replace(plain, **changes), secret.token.encode()
