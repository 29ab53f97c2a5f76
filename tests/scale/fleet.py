"""The fleet that is simulated: nodes of eight GPUs, each with ten instances."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from shared.domain.instance import Instance, Status
from shared.domain.node import Gpu, GpuMemory, Load, Node, NodeReport
from shared.domain.placement import Placement
from shared.domain.wanted import Wanted
from shared.store import Change, Store

GPUS = 8
SLOTS = 30  # instances that a node takes: ten that stay, and room for those that come and go
PER_GPU = 4
SHARE = 0.25
MODELS = 2  # of which all instances are replicas: many of each
GPU_MIB = 81_920
STAY = 10  # instances of each node that stay all the time
FIELDS = {"host": "10.0.0.1", "port": 9000, "pid": 4_000, "engine_key": "k" * 32, "run": 1}
PARAMS = {
    "dtype": "bfloat16",
    "gpu_memory_utilization": SHARE,
    "max_model_len": 8192,
    "max_num_seqs": 256,
    "kv_cache_dtype": "auto",
    "enable_prefix_caching": True,
}


@dataclass(frozen=True, slots=True)
class Fleet:
    """How large it is."""

    nodes: int
    instances: int = STAY  # on each node

    @property
    def names(self) -> list[str]:
        """Names of all nodes."""
        return [f"n{number:04}" for number in range(self.nodes)]

    def node(self, name: str) -> Node:
        """Return a node as it announces itself."""
        gpus = tuple(
            Gpu(index=index, uuid=f"GPU-{name}-{index}", name="H100", total_mib=GPU_MIB)
            for index in range(GPUS)
        )
        labels = {"zone": f"z{int(name[1:]) % 3}"}
        return Node(name=name, address="10.0.0.1", max_instances=SLOTS, gpus=gpus, labels=labels)

    def stays(self, name: str) -> Iterator[Instance]:
        """Return the instances that stay on a node."""
        for number in range(self.instances):
            model = model_name(int(name[1:]) * self.instances + number)
            yield instance(f"stays-{name}-{number}", model, name, number % GPUS)


def model_name(number: int) -> str:
    """Return the name of one of the models."""
    return f"org/model-{number % MODELS}"


def instance(instance_id: str, model: str, node: str, gpu: int) -> Instance:
    """Return a new instance on one GPU of a node."""
    place = Placement(node=node, shares={f"GPU-{node}-{gpu}": round(SHARE * 1000)})
    return Instance(
        instance_id=instance_id,
        model_name=model,
        params=PARAMS,
        env={"OMP_NUM_THREADS": "4"},
        timeout=3600,
        node=node,
        gpus=place.gpus,
        wanted=Wanted(gpus=1, share=SHARE),
    )


def body(number: int) -> bytes:
    """Return what a caller sends to create an instance."""
    asked = {"model_name": model_name(number), "params": PARAMS, "timeout": 3600}
    return json.dumps(asked).encode()


def fill(store: Store, fleet: Fleet) -> dict[str, int]:
    """Announce all nodes, and have all instances run that stay; return the nodes' epochs."""
    epochs = {}
    for name in fleet.names:
        epochs[name] = store.announce(fleet.node(name), "scale")
        store.heartbeat(name, epochs[name], report(fleet, name, 0))
        for one in fleet.stays(name):
            assert store.create(one, SLOTS), one
            for status in (Status.STARTING, Status.RUNNING):
                assert store.apply(change(one, epochs[name], status))
    return epochs


def change(record: Instance, epoch: int, status: Status) -> Change:
    """Return what a node's worker writes as an instance becomes something."""
    return Change(
        instance_id=record.instance_id,
        node=record.node,
        epoch=epoch,
        generation=record.generation,
        status=status,
        fields=FIELDS if status is Status.STARTING else {},
    )


def report(fleet: Fleet, name: str, beat: int) -> NodeReport:
    """Return what a node tells with a heartbeat; it differs from beat to beat."""
    return NodeReport(
        memory={f"GPU-{name}-{index}": GpuMemory(60_000 - beat % 7) for index in range(GPUS)},
        loads={one.instance_id: Load(beat % 5, 0) for one in fleet.stays(name)},
        models=frozenset(model_name(number) for number in range(5)),
    )
