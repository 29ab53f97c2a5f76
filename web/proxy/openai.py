"""`ANY /v1/{path}`: one address for all models. A request says which, and a replica of it answers.

The official client works with `base_url=http://HOST:5000/v1`. What the relay takes does not come
here; see `web.relay.asking`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from math import inf
from urllib.parse import unquote

from flask import Flask, Response, copy_current_request_context, g, jsonify, request
from werkzeug.routing import Rule

from shared.domain.choice import Routing
from shared.domain.instance import Instance
from shared.errors import EngineError, FleetError, InstanceNotReady, InvalidRequest, NotFound
from web.access.auth import check_path
from web.access.engine_paths import INFERENCE, EnginePaths
from web.http.caller import caller_socket
from web.http.connection import close_after
from web.http.upload import CallerGone, Upload
from web.models.holding import AllGone, Held, streamed
from web.models.listed import ModelList
from web.models.router import Router
from web.models.waiting_room import COMMENT_EVERY_S
from web.proxy.asked import (
    Asked,
    asked_in_json,
    checked_model,
    is_json,
    model_in_query,
    point_for,
    with_model,
)
from web.proxy.exchange import Exchange
from web.proxy.form import asked_in_form, is_form
from web.proxy.forwarding import Forwarding, gone
from web.proxy.held_body import HeldBody
from web.proxy.makers import RESPONSES, Makers, can_be_asked_for, response_in
from web.proxy.target import engine_target
from web.proxy.view import Rest, raw_target
from web.tables.by_name import engine_names
from web.tables.routing import RoutingTable

SESSION = "X-Session-ID"
"""The header by which ROUTING=session keeps requests together."""

_BELOW_V1 = ("/v1", "/v1/<rest:_>")
ELSEWHERE = tuple(sorted(path for path in INFERENCE if not path.startswith("/v1/")))
"""Paths of vLLM for inference that are not below /v1: they say their model, too."""

_HEARS_WITHIN_S = 0.25  # of a model that another web process has just seen come up
_FOUND = 200
_RETRY_S = 5  # by then the workers of engines that are gone have said so
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110, section 9.2.2; of those that pass


class OpenAI:
    """Finds the model in a request, and has a replica of it answer."""

    def __init__(
        self,
        router: Router,
        models: ModelList,
        makers: Makers,
        *,
        table: RoutingTable,
        paths: EnginePaths,
        forwarding: Forwarding,
    ) -> None:
        self._router = router
        self._models = models
        self._makers = makers
        self._table = table
        self._paths = paths
        self._forwarding = forwarding

    def add_to(self, app: Flask) -> None:
        """Take all methods on all paths below /v1, and on what else is asked of a model."""
        app.url_map.converters["rest"] = Rest
        for path in (*_BELOW_V1, *ELSEWHERE):
            for websocket in (False, True):
                rule = Rule(path, endpoint="openai", strict_slashes=False, websocket=websocket)
                app.url_map.add(rule)
        app.view_functions["openai"] = self.view
        app.add_url_rule("/v1/models", "models", self.list, methods=["GET"])
        app.add_url_rule("/v1/models/<rest:_>", "models", self.list, methods=["GET"])

    def list(self, _: str = "") -> Response:
        """Return all models that the caller may use, or the one that the path names."""
        path = raw_target().partition("?")[0]
        _, _, name = path.partition("/v1/models/")
        if name:
            return jsonify(self._models.one(unquote(name), g.principal))
        return jsonify({"object": "list", "data": self._models.all(g.principal)})

    def view(self, _: str = "") -> Response:
        """Have a replica of the model that this request names answer it."""
        target = engine_target(raw_target(), "")
        path, _, query = target.partition("?")
        check_path(g.principal, self._paths.access(path, request.method), path)
        upload = self._forwarding.accept()
        try:
            if (response_id := response_in(path)) is not None:
                return self._to_maker(response_id, query, target, upload)
            return self._to_replica(query, target, upload)
        except CallerGone:
            return gone()
        finally:
            if not upload.complete:
                close_after(request.environ)

    def _to_replica(self, query: str, target: str, upload: Upload) -> Response:
        """Have a replica answer, of the model that the body or the query says."""
        body = HeldBody(upload.pieces(None))
        held: Held | None = None
        try:
            asked = self._asked(query, body)
            self._hear_of(asked.model)
            held = Held(self._router, asked.model, g.principal, caller_socket(request.environ))
            response: Response | None = None
            while response is None:
                if not held.is_ready(COMMENT_EVERY_S if asked.streams else inf):
                    return streamed(held, self._later(asked, target, body), body.close)
                with suppress(AllGone):
                    response = self._answer(asked, target, body)
        except BaseException:
            if held is not None:
                held.leave()
            body.close()
            raise
        body.close()  # the engine has all that it wants of it
        return response

    def _later(self, asked: Asked, target: str, body: HeldBody) -> Callable[[], Response]:
        """Return `_answer` for when this request's view has ended."""
        principal, request_id = g.principal, g.request_id

        @copy_current_request_context
        def answer() -> Response:
            g.principal, g.request_id = principal, request_id  # of the request context only
            return self._answer(asked, target, body)

        return answer

    def _to_maker(self, response_id: str, query: str, target: str, upload: Upload) -> Response:
        """Have the instance answer that made the response."""
        maker = self._maker(response_id, model_in_query(query))
        if maker is None:
            raise NotFound(
                f"no response {response_id}: no replica has it; they are kept by the engine that "
                "made them, while it runs, where VLLM_ENABLE_RESPONSES_API_STORE is set for it"
            )
        exchange = self._forwarding.connect(maker)
        return self._forwarding.forward(exchange, maker, target, upload)

    def _maker(self, response_id: str, model: str | None) -> Instance | None:
        """Return who made the response: as this process saw, or as all replicas say, in turn.

        Raises:
            InstanceNotReady: nobody has it of those that could be asked.
        """
        made_by = self._table.serving(self._makers.of(response_id) or "")
        if made_by is not None and g.principal.may_use(made_by):
            return made_by
        if not can_be_asked_for(response_id):
            return None
        unasked = 0
        for replica in self._router.anywhere(model, g.principal):
            try:
                if self._forwarding.ask(replica.instance, f"{RESPONSES}/{response_id}") == _FOUND:
                    self._makers.learn(response_id, replica.instance)
                    return replica.instance
            except (EngineError, InstanceNotReady):
                unasked += 1
        if unasked:
            raise InstanceNotReady(
                f"response {response_id}: none of the replicas that answer has it, and {unasked} "
                "could not be asked",
                retry_after_s=_RETRY_S,
            )
        return None

    def _hear_of(self, name: str) -> None:
        """Wait a moment for a model that this process has not heard of: it may be on its way."""
        if not self._router.knows(name):
            self._table.wait_until(lambda: self._router.knows(name), _HEARS_WITHIN_S)

    def _asked(self, query: str, body: HeldBody) -> Asked:
        """Return what this request asks for.

        Raises:
            InvalidRequest: it does not say one model, or says it in a way that we do not read.
        """
        in_query = model_in_query(query)
        content_type = request.headers.get("Content-Type", "")
        if not body.length:
            return Asked(checked_model(in_query), streams=False, previous="", beginning=b"")
        if is_json(content_type):
            prefix = self._router.routing is Routing.PREFIX
            asked = asked_in_json(body.whole(), with_beginning=prefix)
        elif is_form(content_type):
            asked = asked_in_form(body.pieces(), content_type)
        else:
            return Asked(
                _in_query_only(in_query, content_type), streams=False, previous="", beginning=b""
            )
        if in_query is not None and in_query != asked.model:
            raise InvalidRequest("model: another in the query than in the body", field="model")
        return asked

    def _answer(self, asked: Asked, target: str, body: HeldBody) -> Response:
        """Have one replica after the other try, as long as nothing was sent to any.

        Raises:
            AllGone: there is none any more.
        """
        tried: set[str] = set()
        why: FleetError | None = None
        while (instance := self._choose(asked, tried)) is not None:
            tried.add(instance.instance_id)
            try:
                exchange = self._forwarding.connect(instance)
            except (EngineError, InstanceNotReady) as error:
                self._router.refused(instance)
                why = error
                continue
            try:
                return self._forward(exchange, instance, asked, target, body)
            except (EngineError, InstanceNotReady) as error:
                if request.method not in _IDEMPOTENT:
                    raise
                why = error
        if why is None:
            raise AllGone
        raise InstanceNotReady(
            f"model {asked.model!r}: no replica answers: {why}", retry_after_s=_RETRY_S
        ) from why

    def _choose(self, asked: Asked, tried: set[str]) -> Instance | None:
        replicas = self._router.replicas(asked.model, g.principal)
        if asked.previous and not tried:  # only who made a response can go on from it
            maker = self._maker(asked.previous, asked.model)
            if maker is not None and any(one.instance is maker for one in replicas):
                return maker  # of another model's response the engine says that it knows none
        session = request.headers.get(SESSION, "")
        return self._router.choose(replicas, point_for(self._router.routing, asked, session), tried)

    def _forward(
        self, exchange: Exchange, instance: Instance, asked: Asked, target: str, body: HeldBody
    ) -> Response:
        known = engine_names(instance)
        if asked.model in known or not is_json(request.headers.get("Content-Type", "")):
            heard = self._makers.heard if target.partition("?")[0] == RESPONSES else None
            return self._forwarding.forward(exchange, instance, target, body, heard)
        # An alias that is younger than the engine, which takes no name that it did not begin with.
        with closing(HeldBody([with_model(body.whole(), known[0])])) as renamed:
            return self._forwarding.forward(exchange, instance, target, renamed)


def _in_query_only(model: str | None, content_type: str) -> str:
    """Return the model of a request whose body can say none.

    Raises:
        InvalidRequest: its query says none, either.
    """
    if model is None:
        raise InvalidRequest(
            f"header Content-Type: {content_type!r} says no model; send JSON "
            "(Content-Type: application/json), a form, or ?model=NAME",
            field="Content-Type",
        )
    return model
