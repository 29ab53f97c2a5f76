"""The words that start an engine; no shell reads them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from shared.domain import params


def engine_words(
    program: Sequence[str],
    model: str,
    *,
    host: str,
    port: int | str,
    model_name: str,
    merged: Mapping[str, object],
) -> list[str]:
    """Return the words that start an engine.

    Args:
        program: what comes before `serve`.
        model: a name on the hub, or the model's folder on the node.
        host: where it listens.
        port: there; a word that stands for it where it is not chosen yet.
        model_name: as asked; the engine lists its model by it unless `merged` says otherwise.
        merged: all start parameters.
    """
    served = {"served_model_name": list(params.served_names(model_name, merged))}
    rest = {name: value for name, value in merged.items() if name != "served_model_name"}
    return [
        *program,
        "serve",
        model,
        f"--host={host}",
        f"--port={port}",
        *params.render(served),
        *params.render(rest),
    ]


def as_typed(words: Sequence[str]) -> str:
    """Return the words as they would be typed into a shell."""
    return shlex.join(words)
