"""/instances/ID/logs: what an engine wrote, from whichever node, of this run or the one before."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flask import Blueprint, Response, request

from shared.domain.instance import RELEASED, Instance
from shared.store import LogLine, Store
from web.control import arguments
from web.control.following import Followers
from web.http import sse
from web.tables.records import known

_ID = re.compile(r"(?P<run>[0-9]{1,9}):(?P<place>[0-9]{1,20}-[0-9]{1,20})")
_PLAIN = "text/plain; charset=utf-8"


class Logs:
    """The view of logs."""

    def __init__(self, store: Store, followers: Followers) -> None:
        self._store = store
        self._followers = followers

    def blueprint(self) -> Blueprint:
        """Return the route."""
        routes = Blueprint("logs", __name__, url_prefix="/instances/<instance_id>")
        routes.get("/logs")(self.logs)
        return routes

    def logs(self, instance_id: str) -> Response:
        """Return the last lines of a run as text; with ?follow=1, those and each new one.

        Who follows the current run is shown the next one, too, should the engine be started again.
        As server-sent events for whoever accepts those, with ids to go on behind.
        """
        tail = arguments.tail_lines(request.args.get("tail"))
        follow = arguments.flag("follow", request.args.get("follow"))
        last_seen = arguments.last_event_id(request.headers.get("Last-Event-ID"), _ID)
        record = known(self._store, instance_id)
        run = arguments.run_number(request.args.get("run"), record.run)
        if not follow:
            lines = self._store.log(instance_id, run, tail)
            response = Response(_text(lines), content_type=_PLAIN)
            response.headers["X-Content-Type-Options"] = "nosniff"  # no page: an engine's words
            return response
        place = FollowedLog(self._store, instance_id, run, tail, stays=run < record.run)
        if seen := _ID.fullmatch(last_seen):
            place.go_on(int(seen["run"]), seen["place"])
        as_events = request.accept_mimetypes.best_match(("text/plain", "text/event-stream"))
        if as_events == "text/event-stream":
            return self._followers.response(LogAsEvents(place), sse.CONTENT_TYPE)
        return self._followers.response(LogAsText(place), _PLAIN)


class FollowedLog:
    """The log of one instance, for one caller: where they are in it, and what comes next."""

    def __init__(self, store: Store, instance_id: str, run: int, tail: int, *, stays: bool) -> None:
        """Begin at the last `tail` lines of a run; where it `stays`, that run is the last one."""
        self._store = store
        self._instance_id = instance_id
        self._stays = stays
        self._tail: int | None = tail  # None: behind `_after`
        self._after = ""
        self.run = run
        self.over = False

    def go_on(self, run: int, after: str) -> None:
        """Begin behind a line that was seen before."""
        if run <= self.run:
            self.run, self._after, self._tail = run, after, None

    def more(self, wait_s: float) -> Sequence[LogLine]:
        """Return new lines, all of `run`; wait for one if there is none."""
        if self._tail is not None:
            lines: Sequence[LogLine] = self._store.log(self._instance_id, self.run, self._tail)
            self._tail = None
        else:
            lines = self._store.log_after(self._instance_id, self.run, self._after, wait_s=wait_s)
        if not lines:
            lines = self._unless_over()
        if lines:
            self._after = lines[-1].id
        return lines

    def _unless_over(self) -> Sequence[LogLine]:
        record = known(self._store, self._instance_id)
        if not self._has_ended(record):
            return ()
        # Its last lines were written before the record said so.
        if lines := self._store.log_after(self._instance_id, self.run, self._after, wait_s=0.0):
            return lines
        if self.run < record.run and not self._stays:
            self.run, self._after = self.run + 1, ""
        else:
            self.over = True
        return ()

    def _has_ended(self, record: Instance) -> bool:
        return self.run < record.run or record.status in RELEASED


class LogAsText:
    """A followed log as lines of text."""

    def __init__(self, log: FollowedLog) -> None:
        self._log = log
        self._run = log.run

    @property
    def over(self) -> bool:
        """Whether nothing more can come."""
        return self._log.over

    def opening(self) -> bytes:
        """Return nothing, which has the answer's head sent."""
        return b""

    def more(self, wait_s: float) -> bytes:
        """Return new lines; wait for one if there is none."""
        text = _text(self._log.more(wait_s)).encode()
        if text and self._log.run != self._run:
            self._run = self._log.run
            return f"[run {self._run}]\n".encode() + text
        return text

    def sign_of_life(self) -> bytes:
        """Return nothing: whatever was said would stand in the log."""
        return b""

    def closing(self, why: str) -> bytes:
        """Return why the log ends here, where it does not end itself."""
        return b"" if self.over else f"[not followed any more: {why}]\n".encode()


class LogAsEvents:
    """A followed log as server-sent events, each with its run and its place in there."""

    def __init__(self, log: FollowedLog) -> None:
        self._log = log

    @property
    def over(self) -> bool:
        """Whether nothing more can come."""
        return self._log.over

    def opening(self) -> bytes:
        """Return what comes first."""
        return sse.OPENING

    def more(self, wait_s: float) -> bytes:
        """Return new lines; wait for one if there is none."""
        return b"".join(
            sse.message(line.text, event_id=f"{self._log.run}:{line.id}")
            for line in self._log.more(wait_s)
        )

    def sign_of_life(self) -> bytes:
        """Return what says nothing."""
        return sse.SIGN_OF_LIFE

    def closing(self, why: str) -> bytes:
        """Return what comes last."""
        return sse.end(why)


def _text(lines: Sequence[LogLine]) -> str:
    return "".join(f"{line.text}\n" for line in lines)
