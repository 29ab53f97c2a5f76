"""What a request may ask an engine to be started with: the operator's word, in one place.

The web tier asks before it records, the node's worker again before it spawns: whoever can write to
Redis is not the operator.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shared.domain.engine_env import checked_env, refuse_env
from shared.domain.models import ModelPolicy
from shared.domain.params import checked
from shared.domain.spelling import subject
from shared.domain.unsafe import TRUST, models_named, refuse_unsafe, revisions_named


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the operator allows, by settings and by what every instance begins with."""

    base: Mapping[str, object]  # VLLM_DEFAULT_* and VLLM_CONFIG, merged: trusted
    opened: frozenset[str]  # VLLM_UNSAFE_PARAMS, full names
    models: ModelPolicy
    allowed_env: tuple[str, ...]  # globs

    def check(
        self,
        model_name: str,
        params: Mapping[str, object],
        env: Mapping[str, str],
        *,
        real: Callable[[str], str] = posixpath.normpath,
    ) -> None:
        """Refuse a spec that a request may not ask for.

        What is exactly as in `base` passes: it is the operator's own word. So a worker can ask
        this of a record, in which the operator's and the request's are merged.

        Args:
            model_name: the model.
            params: start parameters, as `params.checked` returns them.
            env: environment variables.
            real: finds where a path leads, see ModelPolicy.check.

        Raises:
            InvalidRequest: names the field, the reason and what an operator can do.
        """
        self.models.check(model_name, where="model_name", real=real)
        asked = {
            name: value
            for name, value in checked(params, field="params").items()
            if name not in self.base or not _same(self.base[name], value)
        }
        refuse_unsafe(
            asked,
            opened=self.opened,
            may_trust=TRUST in self.opened or self.base.get(TRUST) is True,
            field="params",
        )
        for name, value in asked.items():
            for model in models_named(name, value):
                if model:
                    self.models.check(model, where=f"params.{name}", real=real)
            if subject(name) not in self.opened:
                for revision in revisions_named(name, value):
                    self.models.check_revision(revision, where=f"params.{name}")
        refuse_env(checked_env(env, field="env"), allowed=self.allowed_env, field="env")


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other
