"""A caller's connection that takes requests for models, too: it finds a replica for each.

GATHERING ──▶ a replica has it      once the body, which says the model, is all here
    │     ┌──▶ the next one has it  where a replica took no connection: nothing was sent to it
    ├──▶ HELD                       where no replica takes requests yet, until one does
    └──▶ to a thread                whatever is odd; with all that was read, as if nothing had been
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from shared.domain.instance import Instance
from shared.errors import FleetError, InstanceNotReady, NotFound, RequestTimeout
from web.http.errors import CALLER_GONE_STATUS, status_of
from web.models.waiting_room import COMMENT_EVERY_S
from web.relay.admission import ModelGrant
from web.relay.asking import MOST, MOST_OF_ALL, Asking, Odd
from web.relay.caller import ASKING, GONE, RELAYING, CallerConnection
from web.relay.joined import Joined, comment_chunk, stream_head
from web.relay.kept import Kept
from web.relay.refusal import caller_gone, refusal
from web.relay.request import PlainRequest

if TYPE_CHECKING:
    from web.relay.relay import Relay

_EMPTY_LINE = 4
_NOBODY = ""  # as the id of an instance: none was asked


class ModelCaller(CallerConnection):
    """A caller's connection, for requests to instances and to models."""

    __slots__ = ("_asking", "_model_grant")

    def __init__(
        self, relay: Relay, wait_s: float, *, unread: bytes = b"", ending: bool = False
    ) -> None:
        """Serve one connection; arguments as for `CallerConnection`."""
        super().__init__(relay, wait_s, unread=unread, ending=ending)
        self._model_grant: ModelGrant | None = None  # of the last request for a model
        self._asking: Asking | None = None  # the one under way, until an engine has it

    def tell_how_far(self, now: float) -> None:
        """Send a comment line to the caller of a stream that is held, if it is time to."""
        asking = self._asking
        if self._state != ASKING or asking is None or asking.speaks_at > now:
            return
        asking.speaks_at = now + COMMENT_EVERY_S
        if asking.place is None or self._is_full:
            return
        head = b""
        if self._joined is None:
            self._joined = Joined()
            head = stream_head(self._request_id, self._relay.clock.date, last=self._last)
        self.transport.write(head + comment_chunk(asking.place.said()))

    # the request

    def _read_for_model(self, request: PlainRequest, data: bytes, end: int, length: int) -> None:
        relay = self._relay
        grant = relay.admission.admit_to_models(
            request, self._model_grant, relay.clock.now, is_local=self._is_local
        )
        if grant is None or length > relay.limits.max_body:
            self._give_up(data, end)
            return
        if request.in_form or length > MOST:
            self._give_up(data, end, self._new_kept(end + _EMPTY_LINE + length - len(data)))
            return
        self._model_grant = grant
        self._asking = asking = Asking(grant, data, end, length)
        if asking.missing <= 0:
            self._asked()
        elif relay.gathering + length > MOST_OF_ALL:
            self._to_thread()
        else:
            relay.gathering += length
            asking.data = bytearray(data)
            self._state = ASKING
            self._unread = b""
            self.deadline = relay.clock.now + relay.limits.body_timeout_s

    def _new_kept(self, missing: int) -> Kept | None:
        try:
            return Kept(self._relay, missing) if missing > 0 else None
        except OSError:  # then a thread waits
            return None

    def _more_asked(self, data: bytes) -> None:
        asking = self._asking
        if asking is None or asking.missing <= 0:
            self._keep_ahead(data)
            return
        asking.data += data
        self.deadline = self._relay.clock.now + self._relay.limits.body_timeout_s
        if asking.missing <= 0:
            self._relay.gathering -= asking.length
            self._asked()

    def _asked(self) -> None:
        """Go on with a request that is all here."""
        asking = self._asking
        if asking is None:
            return
        self._begin(asking.grant.request)
        if asking.missing < 0:
            self._keep_ahead(bytes(asking.data[asking.whole :]))
            asking.data = asking.data[: asking.whole]
        self._route(asking)

    # where it goes

    def _route(self, asking: Asking) -> None:
        """Send it to a replica, or hold it until there is one."""
        relay = self._relay
        try:
            instance = asking.replica(relay.router, relay.makers)
        except Odd:
            self._to_thread()
        except InstanceNotReady as error:
            self._refuse_asked(error)
        else:
            if instance is None:
                self._hold(asking)
            else:
                self._try(asking, instance)

    def _try(self, asking: Asking, instance: Instance) -> None:
        self._state = RELAYING
        self._send(instance, asking.grant.head_for(instance), asking.length, asking.body)
        if self._engine is not None:
            self._taken()

    def _taken(self) -> None:
        self._asking = None  # what was kept of it goes with it

    def _not_taken(self, instance: Instance, error: FleetError) -> None:
        relay, asking = self._relay, self._asking
        if asking is None:
            self.failed(error)
            return
        relay.router.refused(instance)
        asking.not_taken(instance, str(error))
        try:
            other = asking.replica(relay.router, relay.makers)
        except InstanceNotReady as none_is_left:
            self._asking = None
            self.failed(none_is_left)
            return
        except Odd:
            other = None
        relay.activity.end(instance.instance_id)
        if other is None:
            self._to_thread()
        else:
            self._try(asking, other)

    def _to_thread(self) -> None:
        """Have the view do it, with all that was read."""
        asking, self._asking = self._asking, None
        if asking is None:
            return
        if self._joined is not None:  # its head went out; only the view could go on
            why = f"model {asking.name!r}: has come up in a way that needs the request again"
            self._refuse_asked(InstanceNotReady(why, retry_after_s=1))
            return
        self._give_up(bytes(asking.data) + self._unread, asking.head_end)

    # held

    def _hold(self, asking: Asking) -> None:
        """Wait for a replica to take requests; no thread does."""
        relay = self._relay

        def wake() -> None:
            relay.loop.call_soon_threadsafe(self._woken, asking)

        try:
            asking.place = relay.router.enter(asking.name, asking.grant.principal, wake)
        except NotFound:
            self._to_thread()  # says what there is, after a look whether it is on its way
            return
        except InstanceNotReady as error:
            self._refuse_asked(error)
            return
        self._state = ASKING
        self.deadline = inf  # its place has one
        asking.speaks_at = relay.clock.now + COMMENT_EVERY_S if asking.streams else inf
        relay.held.add(self)

    def _woken(self, asking: Asking) -> None:
        """Hear that waiting has an end."""
        place = asking.place
        if self._asking is not asking or place is None or not place.is_over:
            return
        self._leave_line(asking)
        if place.error is not None:
            self._refuse_asked(place.error)
        else:
            self._route(asking)

    def _leave_line(self, asking: Asking) -> None:
        self._relay.held.discard(self)
        place, asking.place = asking.place, None
        if place is not None:
            place.leave()

    # its end, before an engine had it

    def _caller_left(self) -> None:
        asking = self._asking
        if asking is not None and asking.missing > 0:
            self._relay.gathering -= asking.length
            self._to_thread()  # a request that is cut off: the view says so
            self._leave()
            return
        begun = self._joined is not None
        self._lost_while_asking()
        self._state = GONE
        if not begun:
            self.transport.write(caller_gone(self._request_id))

    def _lost_while_asking(self) -> None:
        asking, self._asking = self._asking, None
        if asking is None:
            return
        if asking.missing > 0:
            self._relay.gathering -= asking.length
            return
        self._leave_line(asking)
        self._count(CALLER_GONE_STATUS)

    def _expired_while_asking(self) -> None:
        asking = self._asking
        if asking is not None and asking.missing > 0:
            self._asking = None
            self._relay.gathering -= asking.length
            self._refuse(RequestTimeout("request: its body did not come in time"))
        elif self._is_full:  # does not read even the comment lines
            self.transport.abort()
        else:
            self.deadline = inf

    def _refuse_asked(self, error: FleetError) -> None:
        """Say why nobody answers."""
        self._asking = None
        self._count(int(status_of(error)))
        joined, self._joined = self._joined, None
        if joined is None:
            self.transport.write(refusal(error, self._request_id))
        else:
            self.transport.write(joined.last(error))
        self._linger()

    def _count(self, status: int) -> None:
        relay = self._relay
        seconds = relay.time() - self._started
        relay.metrics.answered(_NOBODY, status, "relay", seconds)
        if relay.log_access is not None and self._memo is not None:
            relay.log_access(self._peer, self._memo[1], status, seconds, self._request_id)
