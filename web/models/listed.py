"""What `GET /v1/models` lists: models that run, load or could be started, with their state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import time

from shared.domain.catalogue import Entry
from shared.domain.instance import Instance
from shared.domain.params import adapter_names
from shared.errors import ModelNotFound
from web.access.auth import Principal
from web.models.router import Router, nearest
from web.models.waiting_room import WaitingRoom
from web.tables.by_name import Models, names_of

_OWNER = "vllm-fleet"


class ModelList:
    """Lists what somebody may use, in the shape of the OpenAI API, with more fields of ours."""

    def __init__(self, models: Models, router: Router, room: WaitingRoom | None) -> None:
        self._models = models
        self._router = router
        self._room = room
        self._since = int(time())  # for models that were never started

    def all(self, principal: Principal) -> list[dict[str, object]]:
        """Return all models that `principal` may use, the catalogue's first."""
        return [*self._startable(principal), *self._others(principal)]

    def one(self, name: str, principal: Principal) -> dict[str, object]:
        """Return the model of that name or alias.

        Raises:
            ModelNotFound: there is none, for `principal`.
        """
        room = self._room
        entry = None if room is None else room.catalogue.find(name)
        if room is not None and entry is not None and self._router.may_start(name, principal):
            return self._of_entry(room, entry)
        found = [i for i in self._models.instances(name) if principal.may_use(i)]
        if not found:
            refusal = self._router.refusal(name, principal)
            raise refusal if isinstance(refusal, ModelNotFound) else ModelNotFound(str(refusal))
        return self._of_instances(name, found)

    def _startable(self, principal: Principal) -> Iterator[dict[str, object]]:
        room = self._room
        if room is not None:
            for entry in room.catalogue.entries.values():
                if self._router.may_start(entry.name, principal):
                    yield self._of_entry(room, entry)

    def _others(self, principal: Principal) -> Iterator[dict[str, object]]:
        for name in self._models.names():
            found = [
                instance
                for instance in self._models.instances(name)
                if name in self._listed_names(instance) and principal.may_use(instance)
            ]
            if found:
                yield self._of_instances(name, found)

    def _listed_names(self, instance: Instance) -> Sequence[str]:
        """Return the names to list; those of one of the catalogue's its entry says."""
        if self._room is not None and instance.catalogue in self._room.catalogue.entries:
            return adapter_names(instance.params)
        return names_of(instance)

    def _of_entry(self, room: WaitingRoom, entry: Entry) -> dict[str, object]:
        state = room.state(entry)
        created = [int(i.created_at) for i in self._models.instances(entry.name)]
        return {
            **self._base(entry.name, entry.model, min(created, default=self._since)),
            "aliases": list(entry.aliases),
            "status": state.status,
            "reason": state.reason or None,
            "replicas": state.replicas,
            "waiting": state.waiting,
            "progress": state.progress,
            "eta_s": state.eta_s,
        }

    def _of_instances(self, name: str, found: Sequence[Instance]) -> dict[str, object]:
        first = nearest(found)
        return {
            **self._base(name, first.model_name, min(int(i.created_at) for i in found)),
            "status": str(first.shown_status),
            "reason": first.reason or None,
            "replicas": sum(i.serving for i in found),
            "instances": [i.instance_id for i in found],
        }

    def _base(self, name: str, root: str, created: int) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": _OWNER,
            "root": root,
            "parent": None,
        }
