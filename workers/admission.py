"""The node's own look at a spec before it spawns: the web tier asked, but Redis is no wall."""

from __future__ import annotations

import os

from shared.domain.instance import Instance
from shared.domain.policy import Policy
from shared.settings import Settings
from workers.command import model_folder


def refuse_unsafe_spec(instance: Instance, policy: Policy, settings: Settings) -> None:
    """Refuse what this node's operator does not allow; symbolic links are followed.

    Raises:
        InvalidRequest: names the field, the reason and what the operator can do.
    """
    policy.check(instance.model_name, instance.params, instance.env, real=os.path.realpath)
    folder = model_folder(instance.model_name, settings.models_dir)
    if folder is not None:
        policy.models.check_folder(
            os.path.realpath(folder), instance.model_name, where="model_name"
        )
