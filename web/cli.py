"""`flask --app web keys ...`: make, list, revoke and rotate API keys.

Works on the fleet's Redis, whether the web tier runs or not. The key itself is all that goes to
standard output, once; what people should know goes to standard error. An error is one line, and
exit status 2 for what was asked wrongly, 1 for what could not be done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import click
from flask import Flask

from shared.domain.key import (
    Key,
    KeyState,
    Scope,
    checked_models,
    checked_name,
    expiry_of,
    new_secret,
    seconds_of,
    split_token,
)
from shared.errors import Conflict, FleetError, InvalidRequest, NotFound, StoreUnavailable
from shared.settings import Settings
from shared.store import Store, not_rotatable
from shared.store.redis import RedisStore, connect

_HEADINGS = ("ID", "NAME", "SCOPE", "MODELS", "CREATED", "EXPIRES", "STATE")

application = Flask("web.cli", static_folder=None)


class _Failed(click.ClickException):
    """One line; exit status 1."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class _AskedWrongly(_Failed):
    """One line; exit status 2, as click's own."""

    exit_code = 2


class _Commands(click.Group):
    """A group whose errors are one line each."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _AskedWrongly(error.format_message()) from error
        except InvalidRequest as error:
            raise _AskedWrongly(str(error)) from error
        except StoreUnavailable as error:
            raise _Failed(
                f"{error}; start the fleet (make run), or set REDIS_URL to the Redis that it uses"
            ) from error
        except FleetError as error:
            raise _Failed(str(error)) from error


@application.cli.group("keys", cls=_Commands)
def keys() -> None:
    """Make, list, revoke and rotate API keys."""


@keys.command()
@click.argument("name")
@click.option("--scope", required=True, type=click.Choice([scope.value for scope in Scope]))
@click.option("--model", "models", multiple=True, metavar="GLOB", help="Repeatable. Default: all.")
@click.option("--expires", metavar="30d|2027-01-01", help="Default: never.")
def create(name: str, scope: str, models: tuple[str, ...], expires: str | None) -> None:
    """Make a key for NAME and print it, once."""
    secret = new_secret()
    key = Key(
        key_id=secret.key_id,
        name=checked_name(name),
        scope=Scope(scope),
        digest=secret.digest,
        models=checked_models(Scope(scope), models),
    )
    with _store() as store:
        if expires is not None:
            key = replace(key, expires_at=expiry_of(expires, store.now()))
        if not store.add_key(key):  # one in 2**40
            raise Conflict(f"there is a key {key.key_id} already; try again")
        click.echo(secret.token)
        click.echo(f"made {_described(key)}; shown only now", err=True)
        _say_if_no_admin(store)


@keys.command("list")
def list_() -> None:
    """List all keys that were ever made; not the keys themselves, nobody has those."""
    with _store() as store:
        found, now = store.api_keys(), store.now()
    if not found:
        click.echo("no API key was ever made: only programs on this machine are answered", err=True)
        return
    rows = [_HEADINGS, *(_row(key, now) for key in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


@keys.command()
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """Have the key KEY_ID open nothing any more, in all web processes within 5 seconds."""
    with _store() as store:
        if store.revoke_key(key_id) is None:
            raise _unknown(key_id)
        click.echo(f"revoked {key_id}: refused everywhere within 5 seconds", err=True)
        _say_if_no_admin(store)


@keys.command()
@click.argument("key_id")
@click.option(
    "--overlap", default="24h", show_default=True, help="How long the old key goes on working."
)
def rotate(key_id: str, overlap: str) -> None:
    """Make a new key like KEY_ID, with its expiry, too, and print it, once."""
    overlap_s = seconds_of(overlap, field="overlap")
    secret = new_secret()
    with _store() as store:
        old = next((key for key in store.api_keys() if key.key_id == key_id), None)
        if old is None:
            raise _unknown(key_id)
        if old.state(now := store.now()) is not KeyState.ACTIVE:  # also one that cannot be read
            raise not_rotatable(old, now)
        key = replace(old, key_id=secret.key_id, digest=secret.digest)
        rotated = store.rotate_key(key_id, key, overlap_s)
        if rotated is None:
            raise _unknown(key_id)
        click.echo(secret.token)
        click.echo(
            f"made {_described(key)}; shown only now; {key_id} ends {_shown(rotated.expires_at)}",
            err=True,
        )


@contextmanager
def _store() -> Iterator[Store]:
    client = connect(Settings.load_or_exit().redis_url)
    try:
        yield RedisStore(client)
    finally:
        client.close()


def _say_if_no_admin(store: Store) -> None:
    now = store.now()
    if not any(
        key.scope is Scope.ADMIN and key.state(now) is KeyState.ACTIVE for key in store.api_keys()
    ):
        click.echo(
            "there is no admin key, so nobody can create instances or look at them: "
            "flask --app web keys create NAME --scope admin",
            err=True,
        )


def _described(key: Key) -> str:
    models = f" of {', '.join(key.models)}" if key.models else ""
    return f"{key.key_id} for {key.name}: {key.scope}{models}, ends {_shown(key.expires_at)}"


def _row(key: Key, now: float) -> tuple[str, ...]:
    return (
        key.key_id,
        key.name,
        key.scope,
        ",".join(key.models) or "all",
        _shown(key.created_at),
        _shown(key.expires_at),
        key.state(now),
    )


def _shown(at: float | None) -> str:
    return "never" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _unknown(key_id: str) -> FleetError:
    found, _ = split_token(key_id.encode(errors="replace"))
    if found:  # a secret is not repeated
        return InvalidRequest(f"that is a whole key; its id is {found}", field="key_id")
    return NotFound(f"no key {key_id!r}; `keys list` has the ids")
