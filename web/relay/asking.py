"""A request for a model: which replica is to have it, and what is kept of it until one does.

Kept is all of it, head and body as they came, for as long as nothing was sent to an engine: so it
can go to another replica, wait for one, or go to a thread, as if nothing had been.
"""

from __future__ import annotations

from math import inf

from shared.domain.choice import Routing
from shared.domain.instance import Instance
from shared.errors import InstanceNotReady, InvalidRequest
from web.models.router import Router
from web.models.waiting_room import Place
from web.proxy.asked import Asked, asked_in_json, point_for
from web.proxy.makers import Makers
from web.relay.admission import ModelGrant

MOST = 1024 * 1024
"""Bytes of a body that are kept here; a longer one is kept in a file, and goes to a thread."""

MOST_OF_ALL = 256 * 1024 * 1024
"""Bytes of all bodies that are still to come; beyond that, further ones go to threads, too."""

_EMPTY_LINE = 4
_RETRY_S = 5  # by then the workers of engines that are gone have said so


class Odd(Exception):
    """Nothing for the relay: the view does it, or says what is wrong with it."""


class Asking:
    """One request for a model, from its head until an engine has it."""

    __slots__ = (
        "_asked", "_tried", "_why", "data", "grant", "head_end", "length", "place", "speaks_at",
        "whole",
    )  # fmt: skip

    def __init__(self, grant: ModelGrant, data: bytes, head_end: int, length: int) -> None:
        """Begin with what was read.

        Args:
            grant: by which it may go to a model's replicas.
            data: of it, and perhaps of the next request.
            head_end: offset of the empty line after its head.
            length: of its body, in bytes.
        """
        self.grant = grant
        self.data: bytes | bytearray = data
        self.head_end = head_end
        self.length = length
        self.whole = head_end + _EMPTY_LINE + length  # bytes of it
        self.place: Place | None = None  # in line for its model, while it waits
        self.speaks_at = inf  # when the caller is next told how far that is: monotonic
        self._asked: Asked | None = None
        self._tried: list[str] = []  # ids of those that took no connection
        self._why = ""  # they did not

    @property
    def missing(self) -> int:
        """Bytes of it that are still to come; below 0: so many of the next one are here."""
        return self.whole - len(self.data)

    @property
    def body(self) -> bytes:
        """Its body, once it is all here."""
        return bytes(self.data[self.head_end + _EMPTY_LINE : self.whole])

    @property
    def name(self) -> str:
        """The model's name, once it was read."""
        return "" if self._asked is None else self._asked.model

    @property
    def streams(self) -> bool:
        """Whether it wants server-sent events, so that comment lines may come first."""
        return self._asked is not None and self._asked.streams

    def replica(self, router: Router, makers: Makers) -> Instance | None:
        """Return the replica to try next; None where nobody takes requests for the model.

        Raises:
            Odd: it does not say one model plainly, or cannot go to the replica as it is.
            InstanceNotReady: all of them were tried.
        """
        asked = self._asked
        if asked is None:
            asked = self._asked = self._read(router)
        replicas = router.replicas(asked.model, self.grant.principal)
        if asked.previous and replicas and not self._tried:
            maker = makers.of(asked.previous)
            for replica in replicas:
                if replica.instance.instance_id == maker:
                    return replica.instance
            raise Odd  # all replicas are to be asked who has it
        point = None
        if router.routing is not Routing.LEAST:
            session = self.grant.request.session.decode("latin-1")
            point = point_for(router.routing, asked, session)
        instance = router.choose(replicas, point, self._tried)
        if instance is None and self._tried:
            raise InstanceNotReady(
                f"model {asked.model!r}: no replica answers: {self._why}", retry_after_s=_RETRY_S
            )
        if instance is not None and not self.grant.knows(instance, asked.model):
            raise Odd  # another name has to be written into its body
        return instance

    def not_taken(self, instance: Instance, why: str) -> None:
        """Hear that a replica took no connection: nothing was sent to it."""
        self._tried.append(instance.instance_id)
        self._why = why

    def _read(self, router: Router) -> Asked:
        request = self.grant.request
        if request.model:
            return Asked(request.model, streams=False, previous="", beginning=b"")
        try:
            return asked_in_json(self.body, with_beginning=router.routing is Routing.PREFIX)
        except InvalidRequest as error:
            raise Odd from error
