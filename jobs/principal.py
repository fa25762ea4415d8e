"""Who asks: the caller as the use cases see one, after a door has checked the token.

The jobs room never authenticates and never sees a password or a token; a `Principal` is made by
the gateway (or by a test) and believed. It must never carry anything that has to stay secret.
"""

from __future__ import annotations

from dataclasses import dataclass

from privacy_gateway.errors import Refused
from privacy_gateway.schemas import Role


@dataclass(frozen=True, slots=True)
class Principal:
    """One authenticated account.

    Attributes:
        id: stable identifier, `usr_…`; quotas, history and idempotency keys hang on it.
        email: how people call the account.
        role: what it may do at all.
        organisation: the tenant it belongs to.
    """

    id: str
    email: str
    role: Role
    organisation: str = "default"

    def require(self, *roles: Role) -> None:
        """Raise unless the account has one of `roles`.

        Raises:
            Refused: `forbidden`.
        """
        if self.role not in roles:
            wanted = " or ".join(roles)
            raise Refused("forbidden", f"this needs the role {wanted}; yours is {self.role}")
