"""`Idempotency-Key`: a creation that may be asked for again, after an answer that was lost.

As in draft-ietf-httpapi-idempotency-key-header-07, but that a repetition beside the first one is
answered with the same instance, not refused: it exists from the first moment on.
"""

from __future__ import annotations

import json
from hashlib import sha256

from shared.domain.instance import Instance
from shared.errors import KeyReused
from shared.store import Once, Store
from shared.store.history import REPLICA
from web.access.auth import Principal
from web.control import arguments, schemas
from web.control.schemas import CreateRequest

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
"""Header of an answer about an instance that an earlier request made."""


def once_of(header: str | None, principal: Principal, asked: CreateRequest) -> Once | None:
    """Return which creation it is, or None where nobody says.

    Args:
        header: value of Idempotency-Key.
        principal: who asks: another caller's key of the same name is another one.
        asked: what for; how its JSON was written makes no difference.

    Raises:
        InvalidRequest: the header cannot be used.
    """
    key = arguments.idempotency_key(header)
    if key is None:
        return None
    # What of the place is as ever stays out: the fingerprint of a request has not changed by it.
    of_its_place = {name: getattr(asked, name) for name in schemas.OF_PLACE}
    place = {name: value for name, value in of_its_place.items() if value}
    spec = [asked.model_name, asked.params, asked.env, asked.timeout]
    content = [*spec, place] if place else spec
    fingerprint = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Once(name=f"{principal.key_id or principal.name} {key}", fingerprint=fingerprint)


def made_before(store: Store, once: Once | None) -> Instance | None:
    """Return the instance that an earlier request with this key made; None if none did.

    Raises:
        KeyReused: it asked for something else.
    """
    created = store.created_once(once.name) if once else None
    if once is None or created is None:
        return None
    if once.fingerprint == REPLICA:
        made = store.get(created.instance_id)
        return made if made and made.counts else None
    if created.fingerprint != once.fingerprint:
        raise KeyReused(
            f"{HEADER}: was used within a day for another request, which made instance "
            f"{created.instance_id}; take a new key for each new instance",
            field=HEADER,
        )
    return store.get(created.instance_id)
