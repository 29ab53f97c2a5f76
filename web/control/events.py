"""/instances/ID/events: every change of an instance, who made it and why, in order."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

from flask import Blueprint, Response, jsonify, request

from shared.store import Event, Store
from web.control import arguments
from web.control.following import Followers
from web.http import sse
from web.tables.records import known

_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


class Events:
    """The views of events."""

    def __init__(self, store: Store, followers: Followers) -> None:
        self._store = store
        self._followers = followers

    def blueprint(self) -> Blueprint:
        """Return the route."""
        routes = Blueprint("events", __name__, url_prefix="/instances/<instance_id>")
        routes.get("/events")(self.events)
        return routes

    def events(self, instance_id: str) -> Response:
        """Return all kept events, or, with ?follow=1, those and each new one as it comes."""
        follow = arguments.flag("follow", request.args.get("follow"))
        after = arguments.last_event_id(request.headers.get("Last-Event-ID"), _ID)
        known(self._store, instance_id)
        if follow:
            followed = FollowedEvents(self._store, instance_id, after)
            return self._followers.response(followed, sse.CONTENT_TYPE)
        kept = self._store.events(instance_id)
        return jsonify({"instance_id": instance_id, "events": [asdict(event) for event in kept]})


class FollowedEvents:
    """The events of one instance, for one caller, up to its end."""

    def __init__(self, store: Store, instance_id: str, after: str) -> None:
        self._store = store
        self._instance_id = instance_id
        self._after = after
        self.over = False

    def opening(self) -> bytes:
        """Return what comes first."""
        return sse.OPENING

    def more(self, wait_s: float) -> bytes:
        """Return new events; wait for one if there is none."""
        found = self._store.events_after(self._instance_id, self._after, wait_s=wait_s)
        if not found and known(self._store, self._instance_id).ended:
            # Its last ones were written with the record that says so.
            found = self._store.events_after(self._instance_id, self._after, wait_s=0.0)
            self.over = not found
        if found:
            self._after = found[-1].id
        return b"".join(map(_message, found))

    def sign_of_life(self) -> bytes:
        """Return what says nothing."""
        return sse.SIGN_OF_LIFE

    def closing(self, why: str) -> bytes:
        """Return what comes last."""
        return sse.end(why)


def _message(event: Event) -> bytes:
    return sse.message(json.dumps(asdict(event)), event_id=event.id)
