"""What /readyz tells an operator besides whether it is ready."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Flask, g

from shared.policy import policy
from shared.store.memory import MemoryStore
from tests.builders import a_node, an_instance, settings
from web import health
from web.access.auth import LOCAL
from web.models.catalogue_file import CatalogueFile
from web.tables.node_table import NodeTable

INTERVAL_S = 10.0


class Fleet:
    """A node that lives, and what /readyz says of it as time passes."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.store = MemoryStore(lambda: self.now)
        self._epoch = self.store.announce(a_node(), "worker")
        self.models = folder / "models.yaml"
        self.models.write_text("models: [{name: tiny}]")
        self.catalogue = CatalogueFile(self.models, policy(settings()))
        self.catalogue.refresh()
        self._app = Flask("test")
        self._app.register_blueprint(
            health.blueprint(self.store, NodeTable(self.store), INTERVAL_S, self.catalogue)
        )

        @self._app.before_request
        def as_admin() -> None:
            g.principal = LOCAL

    def after(self, seconds: float) -> dict[str, Any]:
        """Return what it says so much later."""
        self.now += seconds
        self.store.heartbeat(a_node().name, self._epoch)
        answer = self._app.test_client().get("/readyz")
        assert answer.status_code == 200
        return dict(answer.get_json())


def test_a_beat_that_falls_silent_is_told_until_it_is_back(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.store.stop_idle()
    assert "beat" not in fleet.after(3 * INTERVAL_S)
    said = fleet.after(INTERVAL_S)["beat"]
    assert said.startswith("silent for 40 s; its part is to have idle instances stopped every 10 s")
    fleet.store.stop_idle()
    assert "beat" not in fleet.after(0)


def test_what_a_node_sweeps_for_itself_is_no_sign_of_beat(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    assert "beat" not in fleet.after(0)  # never seen: not silent, but not there
    fleet.store.stop_idle()
    fleet.now += 100
    fleet.store.stop_idle(node="one")
    assert "silent for 100 s" in fleet.after(0)["beat"]


def test_a_fault_of_the_catalogue_is_told_and_the_one_before_stays_in_force(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    assert "catalogue" not in fleet.after(0)
    fleet.models.write_text("models: [{name: tiny, timeout: soon}]")
    fleet.catalogue.refresh()
    said = fleet.after(0)["catalogue"]
    assert "models.yaml: line 1: models[0].timeout: 'soon' is not a whole number" in said
    assert said.endswith("the catalogue before it stays in force")
    assert fleet.catalogue.current.find("tiny") is not None


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.store.create(an_instance(), 3)
    assert "records" not in fleet.after(0)
    fleet.store.damage(an_instance().instance_id)
    said = fleet.after(0)["records"]
    assert said.startswith("instance tiny-aaaaaaaa: its record cannot be read")
