"""The one refusal type of the system and its public codes.

Every refusal that reaches a person carries a stable code from `CODES`, a sentence, the fields
that caused it, and facts to act on. This module must never know HTTP: `gateway.problems` alone
maps a code to a status.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

CODES: dict[str, str] = {
    "invalid_request": "The request is not in the documented form; each error names its field.",
    "model_refused": "The architecture is outside the allow-list or its size limits.",
    "policy_denied": "The data owner's policy refuses the request.",
    "policy_unavailable": "The policy engine did not answer in time; nothing is admitted.",
    "policy_error": "The policy's answer cannot be read as a decision; it counts as deny.",
    "policy_refused": "The policy revision did not pass its checks and was not activated.",
    "budget_exceeded": "The privacy budget of the population has no room for the request.",
    "quota_exceeded": "The researcher's share of the budget has no room for the request.",
    "frozen": "The population or the data set is frozen by its owner.",
    "floor": "The request lies below a floor that no policy can relax.",
    "price_disagreement": "The two price engines disagree; nothing is admitted at an unsure price.",
    "price_overflow": "The price is too large to be stored.",
    "unauthenticated": "The request carries no valid token.",
    "forbidden": "The role of the caller does not allow this.",
    "not_found": "There is no such thing, or it is not the caller's to see.",
    "method_not_allowed": "The path exists, but not with this HTTP method.",
    "conflict": "The request contradicts the present state.",
    "idempotency_mismatch": "The idempotency key was used before with another body.",
    "not_ready": "The result is not there yet.",
    "unavailable": "A part of the gateway that is needed for this is down; try again.",
    "too_large": "The request or file is larger than the limit.",
    "unsupported": "The request is well formed, but this gateway does not do that.",
    "internal": "Something failed that should not have; the operator's log says more.",
}


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field of a request and what is wrong with it.

    `field` is a dotted path into the request body (`algorithm.clip_norm`, `model.layers[3]`),
    or `body` when the whole text is at fault. `value` and `limit` are printable facts; they never
    come from the data of a client.
    """

    field: str
    message: str
    value: str | int | float | bool | None = None
    limit: str | int | float | bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain mapping without empty members."""
        facts = {"field": self.field, "message": self.message}
        optional = {"value": self.value, "limit": self.limit}
        return facts | {name: fact for name, fact in optional.items() if fact is not None}


class Refused(Exception):
    """A typed refusal: nothing was changed, and the caller is told why.

    Args:
        code: one of `CODES`; anything else is a programming error and raises `ValueError`.
        detail: one sentence for a person.
        errors: the fields at fault, all of them.
        facts: printable members such as `price`, `left`, `counter_offer`.
    """

    def __init__(
        self, code: str, detail: str, *, errors: Iterable[FieldError] = (), **facts: Any
    ) -> None:
        if code not in CODES:
            raise ValueError(f"unknown refusal code {code!r}")
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.facts = facts

    @property
    def rules(self) -> list[dict[str, Any]]:
        """All rules that fired: code, field, message, value, limit; empty where none was asked."""
        return list(self.facts.get("rules") or ())

    @property
    def price(self) -> float | None:
        """ε the request alone would cost, where it was priced; `facts["price"]` tells more."""
        return _number(self.facts.get("price"), "epsilon")

    @property
    def left(self) -> float | None:
        """ε the caller may still spend: the lesser of budget and quota; see `facts["left"]`."""
        left = self.facts.get("left")
        names = ("epsilon_remaining", "quota_epsilon_remaining")
        return min(
            (n for n in (_number(left, name) for name in names) if n is not None), default=None
        )

    @property
    def counter_offer(self) -> dict[str, Any] | None:
        """The nearest request that passes now: `job`, `changed`, `epsilon`; None without one."""
        return self.facts.get("counter_offer")

    def diagnostics(self) -> str:
        """The text a person reads: sentence, fields, facts, one a line."""
        lines = [f"{self.code}: {self.detail}"]
        lines += [f"  {error.field}: {error.message}" for error in self.errors]
        lines += [f"  {name} = {fact}" for name, fact in self.facts.items()]
        return "\n".join(lines)


def _number(facts: Any, name: str) -> float | None:
    """A number among facts that came over the wire, or None."""
    value = facts.get(name) if isinstance(facts, dict) else None
    return float(value) if isinstance(value, int | float) else None


def invalid(
    field: str,
    message: str,
    *,
    value: str | int | float | bool | None = None,
    limit: str | int | float | bool | None = None,
) -> Refused:
    """`invalid_request` about one field."""
    error = FieldError(field, message, value, limit)
    return Refused("invalid_request", f"{field}: {message}", errors=[error])
