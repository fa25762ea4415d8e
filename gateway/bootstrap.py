"""The first start: an up-to-date schema and one administrator.

Runs before anything serves. It must never touch an account once there is one, and prints nothing:
the caller shows a generated password, once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa

from gateway import auth, schema
from gateway.settings import GatewaySettings
from gateway.tables import USER
from kit.clock import utc_now
from kit.db import Database
from kit.ids import new_id
from privacy_gateway.account_bodies import NewUser
from privacy_gateway.errors import invalid
from privacy_gateway.schemas import parse


@dataclass(frozen=True, slots=True)
class FirstAdmin:
    """The account that was made, and whether its password exists nowhere else."""

    email: str
    password: str = field(repr=False)
    generated: bool


def prepare(settings: GatewaySettings) -> FirstAdmin | None:
    """Migrate the configured database and make the first administrator if there is no account."""
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(settings.database())
    try:
        schema.upgrade(database)
        return first_admin(database, settings)
    finally:
        database.close()


def first_admin(database: Database, settings: GatewaySettings) -> FirstAdmin | None:
    """The administrator of an empty gateway; None where accounts exist.

    Raises:
        Refused: `invalid_request` for an address or password that no account could have.
    """
    given = settings.admin_password
    password = given.get_secret_value() if given else auth.generate_password()
    wanted = {"email": settings.admin_email, "password": password, "role": "admin"}
    with database.read() as session:
        if session.scalar(sa.select(USER.c.id).limit(1)) is not None:
            return None
    if given is not None and len(password) < 12:
        raise invalid("PRIVACY_GATEWAY_ADMIN_PASSWORD", "has at least 12 characters")
    body = parse(NewUser, wanted)
    hashed = auth.hash_password(body.password)
    with database.unit_of_work() as session:
        user = auth.create_user(
            session,
            email=body.email,
            password_hash=hashed,
            role="admin",
            organisation=body.organisation,
            now=utc_now(),
            new_id=new_id,
        )
        return FirstAdmin(user.email, password, generated=given is None)
