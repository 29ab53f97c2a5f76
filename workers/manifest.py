"""What a node keeps of its records beside its engines, in case the store loses them.

`manifest.json` in the run directory is the record as the worker last saw it; launch.json and
state.json know better where the engine of the last run is. `node.json` in RUN_DIR holds the node's
epoch, so that a store that has gone back in time does not make its worker look like an old one, and
its cordon.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from shared.domain.instance import RELEASED, Instance, Status
from shared.store.codec import decode_instance, encode_instance
from workers import json_file
from workers.run_directory import RunDirectory


def keep(run: RunDirectory, record: Instance) -> None:
    """Keep the record in the run directory, which is made if there is none.

    Without the engine's key: that is in launch.json already.

    Raises:
        OSError: as on a full disk; what was kept before stays.
    """
    run.make()
    run.write("manifest", {"record": encode_instance(replace(record, engine_key=""))})


def kept(run: RunDirectory) -> Instance | None:
    """Return the record as it was kept; None if none was, or it cannot be read."""
    try:
        manifest = run.read("manifest")
        if manifest is None:
            return None
        record = decode_instance(manifest["record"])
        return record if record.status in RELEASED else _as_launched(record, run)
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        # Of a newer version, or on a disk that fails: as good as none.
        return None


def last_epoch(run_dir: Path) -> int:
    """Return the highest epoch that this node is known to have had; 0 if none is."""
    epoch = (json_file.read(run_dir / "node.json") or {}).get("epoch", 0)
    return epoch if isinstance(epoch, int) else 0


def last_cordon(run_dir: Path) -> str:
    """Return what an operator last asked of this node: cordoned, draining, or ""."""
    cordon = (json_file.read(run_dir / "node.json") or {}).get("cordon", "")
    return cordon if isinstance(cordon, str) else ""


def keep_node(run_dir: Path, epoch: int, cordon: str) -> None:
    """Keep the node's epoch, and what an operator asked of it.

    Raises:
        OSError: as on a full disk.
    """
    json_file.write(run_dir / "node.json", {"epoch": epoch, "cordon": cordon})


def _as_launched(record: Instance, run: RunDirectory) -> Instance:
    """Return the record with what the files of its last run say, which are written before it."""
    launch = run.read("launch")
    if launch is None or launch.get("run", 0) < record.run:
        return record
    if launch.get("run", 0) > record.run:  # the worker died before it kept the start
        record = replace(record, status=Status.STARTING, run=launch["run"], reason="")
    record = replace(record, host=launch["host"], port=launch["port"], engine_key=launch["key"])
    state = run.read("state", record.run)
    if state is None:
        return record
    return replace(
        record, pid=state["pid"], start_time=state["start_time"], boot_id=state["boot_id"]
    )
