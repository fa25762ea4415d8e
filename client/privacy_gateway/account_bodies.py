"""What is sent to the gateway about accounts: log-in, new accounts, passwords.

Strict like every request (`privacy_gateway.schemas`). Nothing here may be answered or logged.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from privacy_gateway.schemas import Name, Role, Strict


class Login(Strict):
    """Body of `POST /v1/login`."""

    email: Annotated[str, Field(min_length=3, max_length=254)]
    password: Annotated[str, Field(min_length=1, max_length=1024)]


class NewUser(Strict):
    """Body of `POST /v1/users`."""

    email: Annotated[str, Field(min_length=3, max_length=254, pattern=r"^[^@\s]+@[^@\s]+$")]
    password: Annotated[str, Field(min_length=12, max_length=1024)]
    role: Role
    organisation: Name = "default"


class NewPassword(Strict):
    """A password that replaces another."""

    new_password: Annotated[str, Field(min_length=12, max_length=1024)]


class OwnPassword(NewPassword):
    """Body of `POST /v1/me/password`: the present password, and the one from now on."""

    password: Annotated[str, Field(min_length=1, max_length=1024)]
