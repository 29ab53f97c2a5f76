"""What an operator forbids: refused by the web tier, and by the node whoever wrote the record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.domain.instance import new_instance_id
from shared.store.redis import RedisStore, connect
from tests import builders
from tests.integration.harness import LocalFleet, local_fleet, processes_of


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "in" / "plain").mkdir(parents=True)
    (folder / "out").mkdir()
    (folder / "in" / "leak").symlink_to(folder / "out")
    return folder / "in"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[LocalFleet]:
    folder = tmp_path_factory.mktemp("strict")
    settings = {"MODELS_DIR": str(models), "VLLM_DEFAULT_TRUST_REMOTE_CODE": "false"}
    with local_fleet(folder, **settings, VLLM_ALLOWED_MODELS="org/*,plain,leak,/*") as fleet:
        fleet.start_worker("one")
        fleet.start_web()
        yield fleet


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model_name": "other/m"}, "model_name"),
        ({"model_name": "/etc"}, "model_name"),
        ({"params": {"worker-cls": "a.B"}}, "params.worker_cls"),
        ({"params": {"speculative.method": "custom_class"}}, "params.speculative_config.method"),
        ({"params": {"tokenizer": "other/t"}}, "params.tokenizer"),
        ({"params": {"trust_remote_code": True}}, "params.trust_remote_code"),
        ({"env": {"LD_PRELOAD": "/x.so"}}, "env.LD_PRELOAD"),
        ({"env": {"MY_TOKEN": "x"}}, "env.MY_TOKEN"),
    ],
)  # fmt: skip
def test_a_request_is_refused_with_the_field(
    strict: LocalFleet, body: dict[str, Any], field: str
) -> None:
    answer = strict.call("POST", "/instances", json={"model_name": "org/m"} | body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    assert strict.call("GET", "/instances").json() == {}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"params": {"worker_cls": "a.B"}}, "params.worker_cls: refused in a request"),
        ({"params": {"port": 1}}, "the fleet owns port"),
        ({"params": {"trust_remote_code": True}}, "VLLM_UNSAFE_PARAMS=trust_remote_code"),
        ({"model_name": "other/m"}, "VLLM_ALLOWED_MODELS allows org/*"),
        ({"model_name": "--port=1"}, "would be read as a flag"),
        ({"model_name": "leak"}, "outside the folders for models"),
        ({"env": {"PYTHONPATH": "/x"}}, "never open to requests"),
        ({"env": {"OMP_NUM_THREADS": 1}}, "must be a string"),
    ],
)
def test_a_node_refuses_what_somebody_wrote_into_redis(
    strict: LocalFleet, spec: dict[str, Any], said: str
) -> None:
    record = builders.an_instance(instance_id=new_instance_id("m"), model_name="org/m")
    poisoned = replace(record, **spec)
    assert RedisStore(connect(strict.redis_url)).create(poisoned, 20)
    failed = strict.becomes(poisoned.instance_id, "failed")
    assert failed["cause"] == "refused"
    assert said in failed["reason"]
    assert failed["pid"] is None
    assert processes_of(strict.run_dir("one") / "engines" / poisoned.instance_id) == []


def test_env_reaches_the_engine_and_is_shown(strict: LocalFleet) -> None:
    body = {"model_name": "org/m", "env": {"OMP_NUM_THREADS": "3"}}
    record = strict.call("POST", "/instances?wait=30", json=body).json()
    assert (record["status"], record["env"]) == ("running", {"OMP_NUM_THREADS": "3"})
    environ = Path(f"/proc/{record['pid']}/environ").read_bytes().split(b"\0")
    assert b"OMP_NUM_THREADS=3" in environ
    assert strict.delete(record["instance_id"])["status"] == "deleted"


def test_a_folder_in_models_dir_is_served_by_name_and_by_path(
    strict: LocalFleet, models: Path
) -> None:
    for name in ("plain", str(models / "plain")):
        record = strict.create(name)
        assert record["status"] == "running"
        assert strict.delete(record["instance_id"])["status"] == "deleted"
