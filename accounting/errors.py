"""Refusals of the accountant, each with the facts that let a person act on it.

Codes live in `privacy_gateway.errors`; this module only words them. It must never soften one.
"""

from __future__ import annotations

from typing import Any

from privacy_gateway.errors import Refused, invalid

__all__ = [
    "budget_exceeded",
    "conflict",
    "frozen",
    "invalid",
    "log_damaged",
    "log_refused",
    "price_disagreement",
    "price_overflow",
    "quota_exceeded",
]


def budget_exceeded(
    population_id: str, *, epsilon: float, spent: float, after: float | None
) -> Refused:
    """No order has room for the cost."""
    return Refused(
        "budget_exceeded",
        f"the budget of population {population_id} has no room for this job",
        population=population_id,
        epsilon=epsilon,
        epsilon_spent=spent,
        epsilon_after=after,
    )


def quota_exceeded(
    holder_id: str, *, epsilon: float | None, spent: float | None, holder: str
) -> Refused:
    """The population has room, the share of the researcher (or `holder` project) has not."""
    facts: dict[str, Any] = {holder: holder_id, "epsilon": epsilon, "epsilon_spent": spent}
    return Refused(
        "quota_exceeded",
        f"the {holder}'s quota within this population has no room for this job",
        **facts,
    )


def frozen(population_id: str) -> Refused:
    """The owner stopped all spending."""
    return Refused(
        "frozen", f"population {population_id} is frozen by its owner", population=population_id
    )


def price_overflow(detail: str) -> Refused:
    """A sum that does not fit 64 bits is never stored."""
    return Refused("price_overflow", detail)


def price_disagreement(digest: str, order: float, first: float, second: float) -> Refused:
    """The engines differ, so at least one of them is wrong."""
    return Refused(
        "price_disagreement",
        f"the price engines disagree at order {order:g}: {first!r} and {second!r} nats a round",
        mechanism=digest,
        order=order,
        authoritative=repr(first),
        independent=repr(second),
    )


def conflict(detail: str, **facts: Any) -> Refused:
    """The call contradicts what the ledger holds."""
    return Refused("conflict", detail, **facts)


def log_refused(reason: str, detail: str, **facts: Any) -> Refused:
    """Log, database and witness contradict each other: nobody may go on as if nothing were.

    `reason` is `rolled_back`, `witness_differs`, `witness_damaged`, `key_exposed`,
    `key_damaged`, `witness_unreadable` or `log_damaged`.
    """
    return Refused("unavailable", detail, reason=reason, **facts)


def log_damaged(detail: str) -> Refused:
    """The stored tree contradicts itself."""
    return log_refused(
        "log_damaged",
        f"the stored log is damaged: {detail}; restore the newest backup of the database",
    )
