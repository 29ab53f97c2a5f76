"""Every error this code raises on purpose. Knows no HTTP: `web.http.errors` maps them.

FleetError
├── InvalidRequest        the caller sent something wrong; names the field
│   └── KeyReused         an idempotency key was used for another request
├── RequestTooLarge       the body is longer than is taken
├── HeadersTooLarge       the headers are more, or longer, than are taken
├── RequestTimeout        the caller stopped sending in the middle of its request
├── NotSupported          HTTP that is right, and that the fleet does not do
├── Unauthorized          nobody knows who the caller is
├── Forbidden             the caller is known and may not do this
├── NotFound              no such thing
│   └── ModelNotFound     no model of that name, for the one who asks
├── Conflict              the thing is not in a state for this
├── NoCapacity            nothing has room now
├── TooManyFollowers      a web process takes no more answers that go on
├── InstanceNotReady      the instance exists and cannot answer now
│   ├── ModelUnavailable  no replica of the model can answer now
│   └── TooManyWaiting    the line of requests that wait for the model is full
├── EngineError
│   ├── EngineUnreachable no connection, or it broke before an answer
│   └── EngineTimeout     connected, and no answer in time
├── StoreUnavailable      Redis does not answer, or refuses writes
├── RecordUnreadable      the store has a record of it that this version cannot read
├── CatalogueFault        the catalogue of models cannot be used: every fault of it at once
└── SettingsError         start-up only: every fault of the environment at once
"""

from __future__ import annotations

from collections.abc import Sequence


class FleetError(Exception):
    """Root of all errors raised on purpose."""


class InvalidRequest(FleetError):
    """The caller sent something wrong.

    Args:
        message: names the field, what was wrong and what would be right.
        field: dotted path of the field in the request, e.g. `params.port`.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class KeyReused(InvalidRequest):
    """An idempotency key was used for another request, within a day."""


class RequestTooLarge(FleetError):
    """The body of a request is longer than is taken."""


class HeadersTooLarge(FleetError):
    """The headers of a request are more, or longer, than are taken."""


class RequestTimeout(FleetError):
    """The caller stopped sending in the middle of its request."""


class NotSupported(FleetError):
    """The request is right as HTTP, and asks for what the fleet does not do."""


class Unauthorized(FleetError):
    """Nobody knows who the caller is; the message says what to do."""


class Forbidden(FleetError):
    """The caller is known and may not do this; the message says what it would take."""


class NotFound(FleetError):
    """No such thing."""


class ModelNotFound(NotFound):
    """No model of that name, for the one who asks; lists those that there are."""


class Conflict(FleetError):
    """The thing is not in a state for what was asked."""


class NoCapacity(FleetError):
    """No node has room now; the message says why for each node."""


class TooManyFollowers(FleetError):
    """A web process takes no more answers that go on."""


class InstanceNotReady(FleetError):
    """The instance exists and cannot answer now.

    Args:
        message: names the instance, its status and its load stage.
        retry_after_s: when asking again makes sense; None if it never will.
    """

    def __init__(self, message: str, *, retry_after_s: int | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelUnavailable(InstanceNotReady):
    """No replica of a model can answer now: its start failed, or has no room; says why."""


class TooManyWaiting(InstanceNotReady):
    """The line of requests that wait for a model is full."""


class EngineError(FleetError):
    """Something between the proxy and an engine went wrong; its answer cannot be passed on."""


class EngineUnreachable(EngineError):
    """No connection to the engine, or it broke before an answer began."""


class EngineTimeout(EngineError):
    """The engine was connected and did not answer in time."""


class StoreUnavailable(FleetError):
    """Redis does not answer, or refuses writes."""


class RecordUnreadable(FleetError):
    """The store has a record that cannot be read: a newer version's, or a damaged one.

    Args:
        instance_id: whose record.
        why: what about it cannot be read.
        key: where the store has it.
    """

    def __init__(self, instance_id: str, *, why: str, key: str) -> None:
        super().__init__(
            f"instance {instance_id}: its record cannot be read ({why}): a newer version wrote it, "
            "or it is damaged. Its engine is left alone and its place is kept. Read it with the "
            f"version that wrote it, or delete {key} from Redis: its node then writes back what "
            "it has kept"
        )
        self.instance_id = instance_id
        self.why = why


class CatalogueFault(FleetError):
    """The catalogue of models cannot be used; lists every fault with its line and key."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


class SettingsError(FleetError):
    """The environment is wrong; lists every fault at once."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)
