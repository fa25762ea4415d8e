"""What the policy was asked about, beside what an entry charges: is it the same job at that price?

A decision names its question by digest, and the question says who wants what: job, rounds, cohort,
noise. An operator who shows an allowed question and charges a kinder mechanism, or lets one
decision stand for several jobs, is found here. It must never take an entry's word for the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from privacy_gateway import rdp

_RELEASES: Final = {"train": "update", "evaluate": "evaluation", "query": "query"}
_FAMILIES: Final = {
    "tree_gaussian": "dp_ftrl",
    "banded_gaussian": "dp_ftrl",
    "adaptive_clipping_gaussian": "adaptive clipping",
}
_CHARGING: Final = ("reserve", "charge")


class Plan(NamedTuple):
    """The job that a question is about, as far as its price follows from it."""

    job: str
    release: str
    family: str
    rounds: int
    clients: int
    clients_per_round: int
    noise_multiplier: float


def plan_of(question: Mapping[str, Any]) -> Plan | None:
    """The plan in a question; None in one from before questions told it.

    Raises:
        LookupError, TypeError, ValueError: it is no question.
    """
    job = question["job"]
    if "request" not in question or "noise_multiplier" not in job:
        return None
    family = "clipping by a fixed norm"
    if str(job["algorithm"]).partition(":")[0] == "dp_ftrl":
        family = "dp_ftrl"
    elif job["clip_norm"] == "adaptive":
        family = "adaptive clipping"
    return Plan(
        str(question["request"]["id"]),
        _RELEASES[question["request"]["kind"]],
        family,
        int(job["rounds"]),
        int(question["dataset"]["clients"]),
        int(job["clients_per_round"]),
        float(job["noise_multiplier"]),
    )


def difference(plan: Plan | None, leaf: Mapping[str, Any]) -> str | None:
    """In what a reservation or charge is not the plan's; None when it is.

    Raises:
        LookupError, TypeError, ValueError, ArithmeticError: a member is not of its type.
    """
    if plan is None or leaf["kind"] not in _CHARGING:
        return None
    for name, here, there in _compared(plan, leaf):
        if here != there:
            return f"is about another {name}: {there}, not {here}"
    return None


def _compared(plan: Plan, leaf: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(what, as the entry has it, as the question has it)."""
    mechanism = leaf["mechanism"]
    yield "job", leaf["job"], plan.job
    yield "release", mechanism["release"], plan.release
    units = plan.rounds
    if mechanism["kind"] != rdp.FREE:
        family = _FAMILIES.get(mechanism["kind"], "clipping by a fixed norm")
        yield "mechanism", family, plan.family
        yield "noise multiplier", float(mechanism["noise_multiplier"]), plan.noise_multiplier
        yield "number of clients", mechanism.get("clients", plan.clients), plan.clients
        size = mechanism.get("clients_per_round", plan.clients_per_round)
        # Where others see who is drawn, everybody counts as drawn.
        if size != plan.clients:
            yield "cohort", size, plan.clients_per_round
    if mechanism["kind"] == "tree_gaussian":
        once = plan.clients // plan.clients_per_round
        yield "length of a tree", mechanism["steps"], min(plan.rounds, once)
        units = -(-plan.rounds // once)
    if mechanism["kind"] == "banded_gaussian":
        yield "number of rounds", mechanism["steps"], plan.rounds
        units = 1
    if leaf["kind"] == "reserve":
        yield "number of rounds", leaf["rounds"], units
