"""GPUs as callers name them."""

from __future__ import annotations

import pytest

from shared.domain.gpu_names import found
from shared.errors import InvalidRequest
from tests.builders import a_gpu, a_node

NODES = [
    a_node(name="a", gpus=(a_gpu(0), a_gpu(1))),
    a_node(name="b", gpus=(a_gpu(2),)),
    a_node(name="c"),
]


@pytest.mark.parametrize(
    ("names", "node", "uuids"),
    [
        (["a:1"], "a", ("GPU-1",)),
        (["GPU-2"], "b", ("GPU-2",)),
        (["GPU-1", "a:0"], "a", ("GPU-1", "GPU-0")),
    ],
)
def test_gpus_are_found_by_uuid_and_by_place(
    names: list[str], node: str, uuids: tuple[str, ...]
) -> None:
    assert found(names, NODES) == (node, uuids)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["a:2"], "there is no GPU a:2; there are a:0, a:1, b:2"),
        (["GPU-9"], "there is no GPU GPU-9"),
        (["c:0"], "there is no GPU c:0"),
        (["a:0", "GPU-0"], "GPU-0 is named twice"),
        (["a:0", "GPU-2"], "they are of several nodes, a, b"),
    ],
)
def test_what_names_no_gpus_of_one_node_is_refused(names: list[str], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as raised:
        found(names, NODES)
    assert raised.value.field == "gpus"
