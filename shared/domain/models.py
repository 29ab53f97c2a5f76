"""Which models a fleet may serve: by name, and by where a local one lies.

A model is named in `model_name`, and in every parameter that names another one: a tokenizer, a
draft model, an adapter. What begins with `/` is a path on the node, a scheme makes it a URL, and
anything else is a name: on the model hub or, for `model_name`, of a folder in MODELS_DIR.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from shared.errors import InvalidRequest

_NAME_CHARS = 512
_PATH_PART_BYTES = 255  # NAME_MAX of Linux file systems
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPolicy:
    """The operator's word on models."""

    allowed: tuple[str, ...]  # globs, case matters; a URL needs one that has a scheme itself
    roots: tuple[str, ...]  # folders as they are written and as they really lie, absolute

    def check(
        self, name: str, *, where: str, real: Callable[[str], str] = posixpath.normpath
    ) -> None:
        """Refuse a model that may not be served.

        Args:
            name: as the caller wrote it.
            where: the field it stood in, for messages.
            real: finds where a path leads. On a node follow symbolic links; elsewhere only its
                text can be judged.

        Raises:
            InvalidRequest: says what would be allowed.
        """
        checked_name(name, where=where)
        if not self._is_listed(name):
            raise InvalidRequest(
                f"{where}: {name!r} is not an allowed model; VLLM_ALLOWED_MODELS allows "
                f"{_listed(self.allowed)}",
                field=where,
            )
        if name.startswith("/"):
            self.check_folder(real(name), name, where=where)

    def check_folder(self, folder: str, name: str, *, where: str) -> None:
        """Refuse a model whose folder or file lies outside the roots.

        Args:
            folder: where it really lies on the node.
            name: what led there.
            where: the field it stood in, for messages.

        Raises:
            InvalidRequest: says where models may lie.
        """
        if not any(folder == root or folder.startswith(f"{root}/") for root in self.roots):
            leads = "" if folder == name else f" leads to {folder}, which"
            raise InvalidRequest(
                f"{where}: {name!r}{leads} lies outside the folders for models; they are "
                f"{_listed(self.roots)} (MODELS_DIR and VLLM_MODEL_ROOTS)",
                field=where,
            )

    def check_revision(self, revision: str, *, where: str) -> None:
        """Refuse a revision where not all models are allowed.

        On the hub everybody can open a pull request to a model, and what it holds is a revision of
        that model: an allowed name with a stranger's files, or code.

        Args:
            revision: a branch, tag or commit, as the caller wrote it.
            where: the field it stood in, for messages.

        Raises:
            InvalidRequest: says what an operator can do.
        """
        if "*" not in self.allowed:
            raise InvalidRequest(
                f"{where}: revision {revision!r} could be a stranger's pull request, and "
                f"VLLM_ALLOWED_MODELS allows only {_listed(self.allowed)}; an operator sets it in "
                "VLLM_CONFIG, or opens it with VLLM_UNSAFE_PARAMS",
                field=where,
            )

    def _is_listed(self, name: str) -> bool:
        globs = self.allowed
        if _SCHEME.match(name):
            globs = tuple(glob for glob in globs if _SCHEME.match(glob))
        return any(fnmatchcase(name, glob) for glob in globs)


def checked_name(name: str, *, where: str) -> str:
    """Return a model's name or path, refusing what can be neither.

    Raises:
        InvalidRequest: says what is wrong with it.
    """
    fault = None
    parts = name.split("/")
    if len(name) > _NAME_CHARS:
        fault = f"is {len(name)} characters long, at most {_NAME_CHARS} fit"
    elif name != name.strip() or not name.isprintable():
        fault = f"{name!r} holds spaces around it or control characters"
    elif name.startswith("-"):
        fault = f"{name!r} would be read as a flag"
    elif ".." in parts:
        fault = f"{name!r} climbs out of its folder with '..'"
    elif parts[0] == "." or name.startswith("~"):
        fault = f"{name!r} is a relative path; give a name or an absolute path"
    elif any(len(part.encode()) > _PATH_PART_BYTES for part in parts):
        fault = f"has a part of over {_PATH_PART_BYTES} bytes between slashes"
    if fault:
        raise InvalidRequest(f"{where}: {fault}", field=where)
    return name


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words)
