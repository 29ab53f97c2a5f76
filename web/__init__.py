"""The web tier: REST for instances, and the proxy to their engines."""

from importlib import import_module


def make_app() -> object:
    """Return what `flask --app web` looks for: commands, and no server; that is `web.wsgi:app`."""
    return import_module("web.cli").application  # only now: importing `web` costs nothing
