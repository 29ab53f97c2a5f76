"""Which path is answered by whom, and which need the key."""

import hmac
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final, NamedTuple

from . import VERSION, metrics, probes
from .flags import Flags
from .further import Further
from .generation import Generation
from .journal import Journal
from .replies import Reply, bytes_reply, json_reply
from .server import Exchange, Handler

# vLLM compares plain prefixes, so /v1anything is guarded too: serve/middleware/authenticate.py.
_GUARDED: Final = ("/v1", "/v2", "/inference", "/cohere")
_GET: Final = frozenset({"GET", "HEAD"})
_POST: Final = frozenset({"POST"})


class _Route(NamedTuple):
    path: str  # one that ends in "/" stands for everything below it
    handler: Handler
    methods: frozenset[str] | None = _GET  # None: every method
    is_vllms: bool = False  # shown in /openapi.json

    def matches(self, path: str) -> bool:
        return path == self.path or (self.path.endswith("/") and path.startswith(self.path))


class Routes:
    """The handler of every request: checks the key, finds the route, calls it."""

    def __init__(self, flags: Flags, journal: Journal, api_key: str, core: int) -> None:
        """Guard the paths of vLLM's API with `api_key`, with "" they are open; `core` is a pid."""
        self._model = flags.served_names[0]
        self._health_takes_s = flags.slow_health
        self._journal = journal
        self._api_key = api_key
        self._table = [*self._vllm_routes(flags, core), *_probe_routes(flags, journal)]

    def __call__(self, exchange: Exchange) -> Reply:
        """Answer one request."""
        if not self._may_pass(exchange):
            return json_reply(HTTPStatus.UNAUTHORIZED, {"error": "Unauthorized"})
        path, method = exchange.path, exchange.request.method
        for route in self._table:
            if not route.matches(path):
                continue
            if route.methods is None or method in route.methods:
                return route.handler(exchange)
            allowed = (("allow", ", ".join(sorted(route.methods))),)
            detail = {"detail": "Method Not Allowed"}
            return json_reply(HTTPStatus.METHOD_NOT_ALLOWED, detail, allowed)
        return json_reply(HTTPStatus.NOT_FOUND, {"detail": "Not Found"})

    def _may_pass(self, exchange: Exchange) -> bool:
        request = exchange.request
        if not self._api_key or request.method == "OPTIONS":
            return True
        if not exchange.path.startswith(_GUARDED):
            return True
        scheme, _, token = request.header("authorization").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            token.encode("latin-1"), self._api_key.encode()
        )

    def _vllm_routes(self, flags: Flags, core: int) -> Iterator[_Route]:
        generation = Generation(flags, self._journal, core)
        yield _Route("/health", self._health, is_vllms=True)
        yield _Route("/version", _version, is_vllms=True)
        yield _Route("/metrics", self._metrics)
        yield _Route("/openapi.json", self._openapi)
        yield _Route("/v1/models", generation.models, is_vllms=True)
        yield _Route("/v1/chat/completions", generation.chat, _POST, is_vllms=True)
        yield _Route("/v1/completions", generation.completions, _POST, is_vllms=True)
        yield _Route("/v1/embeddings", generation.embeddings, _POST, is_vllms=True)
        further = Further(flags)
        yield _Route("/v1/responses", further.responses, _POST, is_vllms=True)
        yield _Route("/v1/responses/", further.stored_response, _GET | _POST, is_vllms=True)
        transcriptions = "/v1/audio/transcriptions"
        yield _Route(transcriptions, further.transcriptions, _POST, is_vllms=True)
        yield _Route("/v1/rerank", further.rerank, _POST, is_vllms=True)
        yield _Route("/v1/score", further.score, _POST, is_vllms=True)
        yield _Route("/v1/messages", further.messages, _POST, is_vllms=True)

    def _health(self, exchange: Exchange) -> Reply:
        if self._health_takes_s:
            exchange.wait(self._health_takes_s)
        return bytes_reply(HTTPStatus.OK, b"", "text/plain")

    def _metrics(self, _exchange: Exchange) -> Reply:
        text = metrics.exposition(self._model, self._journal.load())
        kind = "text/plain; version=1.0.0; charset=utf-8"
        return bytes_reply(HTTPStatus.OK, text.encode(), kind)

    def _openapi(self, _exchange: Exchange) -> Reply:
        paths: dict[str, object] = {
            route.path: {"post" if route.methods == _POST else "get": {"responses": {}}}
            for route in self._table
            if route.is_vllms
        }
        info = {"title": "FastAPI", "version": "0.1.0"}
        return json_reply(HTTPStatus.OK, {"openapi": "3.1.0", "info": info, "paths": paths})


def _probe_routes(flags: Flags, journal: Journal) -> Iterator[_Route]:
    asked = probes.Probes(flags, journal)
    yield _Route("/echo", probes.echo, None)
    yield _Route("/echo/", probes.echo, None)
    yield _Route("/bytes/", probes.download)
    yield _Route("/chunked-bytes/", probes.chunked_download)
    yield _Route("/silent", probes.silent)
    yield _Route("/sse", asked.sse)
    yield _Route("/die-mid-stream", probes.die_mid_stream)
    yield _Route("/status/", probes.status)
    yield _Route("/redirect", probes.redirect)
    yield _Route("/early-413", probes.early_413, _GET | _POST)
    yield _Route("/seen", asked.seen)


def _version(_exchange: Exchange) -> Reply:
    return json_reply(HTTPStatus.OK, {"version": VERSION})
