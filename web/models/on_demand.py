"""Models on demand, put together: the catalogue, who waits for its models, and what starts them."""

from __future__ import annotations

from shared.domain.scaling import ScalingRule
from shared.queue import Doorbells
from shared.settings import Settings
from shared.store import Store
from web.control.creation import Creation
from web.models.catalogue_file import CatalogueFile
from web.models.replicas import Replicas
from web.models.scaler import Scaler
from web.models.starts import ModelStarts
from web.models.waiting_room import WaitingRoom
from web.tables.activity import Activity
from web.tables.node_table import NodeTable
from web.tables.routing import RoutingTable


class OnDemand:
    """What a web process needs to have models started that are asked for."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store,
        doorbells: Doorbells,
        table: RoutingTable,
        activity: Activity,
        creation: Creation,
        nodes: NodeTable,
    ) -> None:
        """Wire it; nothing runs yet."""
        self.file = CatalogueFile(settings.model_catalogue, creation.policy)
        replicas = Replicas(store, doorbells, creation, table.models, nodes)
        self.room = WaitingRoom(self.file, replicas, most=settings.model_queue)
        self._starts = ModelStarts(
            self.room,
            table,
            store,
            replicas,
            activity,
            wait_s=settings.model_wait_s,
            cancels=settings.cancel_unwanted,
        )
        self._scaler = Scaler(self.room, store, replicas, ScalingRule(), nodes.reported_waiting)
        table.when_replicas_change(self._starts.hear)
        self.file.when_changed(self._starts.hear)

    def start(self) -> None:
        """Read the catalogue, and begin; in threads of their own."""
        self.file.start()
        self._starts.start()
        self._scaler.start()

    def close(self) -> None:
        """Stop looking after models; who waits is answered by nobody any more."""
        self.file.close()
        self._starts.close()
        self._scaler.close()
