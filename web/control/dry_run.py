"""`POST /instances?dry_run=1`: what would become of a new instance, and why not something else."""

from __future__ import annotations

from collections.abc import Collection

from shared.domain.command_line import as_typed, engine_words
from shared.domain.instance import Instance
from shared.domain.node import Node
from shared.domain.placement import Placement, Rule, verdicts, why_second
from shared.settings import Settings
from web.control.creation import Decision
from web.control.standing import Standings

_PORT = "PORT"  # in the command line: the node's worker chooses it as it starts the engine


def answer(
    instance: Instance,
    decision: Decision,
    nodes: Collection[Node],
    standings: Standings,
    settings: Settings,
) -> dict[str, object]:
    """Return the answer as callers see it.

    Args:
        instance: as it would be recorded, without a place.
        decision: what would become of it.
        nodes: all of the fleet.
        standings: of the line.
        settings: of this web tier, which has VLLM_COMMAND and MODELS_DIR as the nodes have.
    """
    place = decision.placement or (decision.room.placement if decision.room else None)
    node = next((node for node in nodes if place and node.name == place.node), None)
    words = _words(instance, node, settings)
    standing = standings.of_new(instance) if decision.waits else None
    return {
        "dry_run": True,
        "outcome": _outcome(decision),
        "reason": "" if decision.placement else decision.reason,
        "model_name": instance.model_name,
        "node": place.node if place else None,
        "gpus": list(place.gpus) if place else [],
        "share": instance.wanted.share,
        "simulated": bool(node and node.simulated),
        "evicts": list(decision.room.victims) if decision.room else [],
        "position": standing.position if standing else None,
        "eta": standing.eta if standing else None,
        "nodes": _why_others_are_not(instance, decision, nodes, place, settings),
        "command": words,
        "command_line": as_typed(words),
        "port": f"{_PORT} stands for what the node's worker chooses from its VLLM_BASE_PORT on",
        "params": dict(instance.params),
        "timeout": instance.timeout,
    }


def _outcome(decision: Decision) -> str:
    if decision.placement:
        return "placed"
    if decision.room:
        return "evicts"
    return "waits" if decision.waits else "refused"


def _why_others_are_not(
    instance: Instance,
    decision: Decision,
    nodes: Collection[Node],
    place: Placement | None,
    settings: Settings,
) -> dict[str, str]:
    """Return for every other node why the instance does not go there."""
    chosen = next((node for node in nodes if place and node.name == place.node), None)
    refusals = decision.refusals or verdicts(nodes, instance.wanted, ahead=decision.ahead)
    told: dict[str, str] = {}
    for node in nodes:
        if node is chosen:
            continue
        why = refusals.get(node.name)
        if why is None and chosen:
            rule = Rule(settings.placement)
            why = why_second(node, chosen, model_name=instance.model_name, rule=rule)
        told[node.name] = why or "would not make room as well"
    return told


def _words(instance: Instance, node: Node | None, settings: Settings) -> list[str]:
    folder = settings.models_dir / instance.model_name
    return engine_words(
        settings.vllm_command,
        str(folder) if folder.is_dir() else instance.model_name,
        host=node.address if node else "ADDRESS",
        port=_PORT,
        model_name=instance.model_name,
        merged=instance.params,
    )
