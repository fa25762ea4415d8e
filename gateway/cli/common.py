"""What operator commands share: settings from flags, an open database, refusals as exit codes.

Commands import what is slow (database, accountant, web server) when they run: `verify` and
`--help` share this command line and must not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privacy_gateway.cli import output
from privacy_gateway.cli.output import fail
from privacy_gateway.errors import Refused, invalid

if TYPE_CHECKING:
    from gateway.settings import GatewaySettings
    from kit.db import Database

__all__ = ["State", "explained", "fail", "load_settings", "open_database"]

State = Annotated[
    Path | None,
    typer.Option("--state", help="State directory (or PRIVACY_GATEWAY_STATE; else ./state)."),
]


def load_settings(
    state: Path | None = None, *, host: str | None = None, port: int | None = None
) -> GatewaySettings:
    """Settings from the environment, with flags on top and an absolute state directory."""
    from gateway.settings import GatewaySettings
    from jobs.settings import load

    flags = {"state_dir": state, "host": host, "port": port}
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = load(GatewaySettings, given)
    except Refused as refusal:
        fail(refusal, {})
    return settings.model_copy(update={"state_dir": settings.state_dir.resolve()})


def explained() -> AbstractContextManager[None]:
    """As in the client, without its advice: no address and no log-in are wrong here."""
    return output.explained({})


@contextmanager
def open_database(settings: GatewaySettings, *, create: bool = False) -> Iterator[Database]:
    """The configured database, closed at the end.

    Args:
        settings: where it is.
        create: begin an empty one in the state directory where there is none; else a mistyped
            directory is refused and not made.

    Raises:
        Refused: `unavailable` for a state directory without a database, unless it may be made, and
            for a database that does not answer; `invalid_request` for an address that is none of
            SQLite or PostgreSQL.
    """
    from sqlalchemy.exc import ArgumentError, OperationalError

    from kit.db import Database

    if create:
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not settings.has_database():
        detail = f"there is no database in {settings.state_dir}; check --state, or run "
        raise Refused("unavailable", f"{detail}`privacy-gateway migrate`")
    try:
        database = Database(settings.database())
    except (ArgumentError, ImportError) as error:
        raise invalid("DATABASE_URL", "must be postgresql://… or sqlite:///…") from error
    try:
        yield database
    except OperationalError as error:
        reason = str(error.orig).strip().partition("\n")[0]
        detail = f"the database does not answer ({reason}); check DATABASE_URL and --state"
        raise Refused("unavailable", detail) from error
    finally:
        database.close()
