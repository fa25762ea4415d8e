"""An owner's denial in the units of the request: what was asked for beside what is allowed.

Policies count in millionths and billionths, because engines differ on floats; people and the
search for a counter-offer need the numbers a request is written in. Only denials of the Rego
library are converted, by their codes; what an owner made up is shown as it came. Nothing here may
change whether something is denied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from policies.question import PPM
from policies.verdict import Denial
from privacy_gateway.rdp import NANO
from privacy_gateway.schemas import JobRequest, Rule

Fact = int | float | str | None
Document = Mapping[str, Any]

_PER_CENT = 100


def rule_of(denial: Denial, request: JobRequest, document: Document) -> Rule:
    """The rule that fired, with the value the policy saw at its field.

    Args:
        denial: of the policy's answer.
        request: what was asked for.
        document: the question the policy was asked.
    """
    convert = _LIBRARY.get(denial.code)
    limit = denial.limit
    if convert is not None and isinstance(limit, int) and not isinstance(limit, bool):
        value, bound = convert(limit, document)
    else:
        value, bound = _seen(denial.field, request, document), _fact(limit)
    return Rule(
        code=denial.code, field=denial.field, message=denial.message, value=value, limit=bound
    )


def _in_epsilon(path: str) -> Callable[[int, Document], tuple[Fact, Fact]]:
    """Billionths of ε at a path of the question."""
    return lambda limit, document: (_at(document, path) / NANO, limit / NANO)


def _noise(limit: int, document: Document) -> tuple[Fact, Fact]:
    return document["job"]["noise_multiplier"], limit / PPM


def _cohort(limit: int, document: Document) -> tuple[Fact, Fact]:
    """A share of the clients as a number of them, rounded down."""
    return document["job"]["clients_per_round"], limit * document["dataset"]["clients"] // PPM


def _share_of_budget(limit: int, document: Document) -> tuple[Fact, Fact]:
    whole = document["budget"]["epsilon_nano"]
    return document["cost"]["epsilon_nano"] / NANO, limit * whole / (_PER_CENT * NANO)


def _share_of_project(limit: int, document: Document) -> tuple[Fact, Fact]:
    whole = document["budget"]["project_quota"]["epsilon_nano"]
    return document["cost"]["epsilon_nano"] / NANO, limit * whole / (_PER_CENT * NANO)


def _by_subject(limit: int, document: Document) -> tuple[Fact, Fact]:
    before = document["history"]["charged_epsilon_nano_by_subject"]
    return (before + document["cost"]["epsilon_nano"]) / NANO, limit / NANO


_LIBRARY: dict[str, Callable[[int, Document], tuple[Fact, Fact]]] = {
    "noise_below_limit": _noise,
    "sampling_rate_above_limit": _cohort,
    "price_above_limit": _in_epsilon("cost.epsilon_nano"),
    "price_above_share": _share_of_budget,
    "price_above_project_share": _share_of_project,
    "spent_above_limit": _in_epsilon("cost.budget_epsilon_nano_after"),
    "over_budget": _in_epsilon("cost.budget_epsilon_nano_after"),
    "quota_above_limit": _by_subject,
}


def _seen(field: str, request: JobRequest, document: Document) -> Fact:
    """The member of request or question that a field names."""
    path = field.removeprefix("input.")
    found = (_at(source, path) for source in (request.model_dump(), document))
    return next((_fact(value) for value in found if value is not None), None)


def _at(document: Any, path: str) -> Any:
    """The member that a dotted path names, or None."""
    for name in path.split("."):
        document = document.get(name) if isinstance(document, Mapping) else None
    return document


def _fact(value: Any) -> Fact:
    """A printable fact; lists become text."""
    if isinstance(value, tuple | list):
        return ", ".join(str(member) for member in value)
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, int | float | str) else None
