"""What an engine is launched with: the content of its launch.json."""

from __future__ import annotations

from shared.address import authority
from shared.domain import params
from shared.domain.instance import Instance


def launch_of(
    record: Instance, *, command: list[str], env: dict[str, str], stop_timeout_s: float
) -> dict[str, object]:
    """Return what launch.json says of `record`, whose host, port and key are chosen."""
    return {
        "instance_id": record.instance_id,
        "generation": record.generation,
        "run": record.run,
        "command": command,
        "env": env,
        "host": record.host,
        "port": record.port,
        "url": f"http://{authority(record.host, record.port)}",
        "key": record.engine_key,
        "names": list(params.served_names(record.model_name, record.params)),
        "stop_timeout_s": stop_timeout_s,
    }
