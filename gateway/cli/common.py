"""What operator commands share: settings from flags, refusals as exit codes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from gateway.settings import GatewaySettings
from kit.db import Database
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import refusal_of

State = Annotated[
    Path | None,
    typer.Option("--state", help="State directory [env PRIVACY_GATEWAY_STATE; default ./state]."),
]


def load_settings(
    state: Path | None = None, *, host: str | None = None, port: int | None = None
) -> GatewaySettings:
    """Settings from the environment, with flags on top and an absolute state directory."""
    flags = {"state_dir": state, "host": host, "port": port}
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = GatewaySettings.model_validate(given)
    except ValidationError as error:
        fail(refusal_of(error))
    return settings.model_copy(update={"state_dir": settings.state_dir.resolve()})


@contextmanager
def open_database(settings: GatewaySettings) -> Iterator[Database]:
    """The configured database, closed at the end."""
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(settings.database())
    try:
        yield database
    finally:
        database.close()


@contextmanager
def explained() -> Iterator[None]:
    """A refusal becomes a text and exit code 1, never a stack trace."""
    try:
        yield
    except Refused as refusal:
        fail(refusal)


def fail(refusal: Refused) -> NoReturn:
    """Say what was refused, and end with exit code 1."""
    print(refusal.diagnostics(), file=sys.stderr)
    raise typer.Exit(1)
