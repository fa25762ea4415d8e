"""Replaying a population's ledger: balances, rules, prices and the filter, from entries alone.

This is a second implementation of the ledger's rules, written against the specification and not
against the server, so that an error in one does not hide in both. It must never import the server
and never trust a stated balance: each one is derived and compared.
"""

from __future__ import annotations

import bisect
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from privacy_gateway import canonical, rdp

Vector = tuple[int, ...]
Finding = tuple[str, str]

RELATIVE_TOLERANCE: Final = 1e-6
# One unit for rounding up, and a tenth for the digits dp-accounting loses near 1.
UNITS_TOLERANCE: Final = 1.2

_ZERO: Final = (0,) * len(rdp.ORDERS)
_ORDER_NAMES: Final = [f"{order:g}" for order in rdp.ORDERS]
_SPENDING: Final = ("reserve", "charge", "void")


@dataclass(slots=True)
class Job:
    """What a reservation held and how much of it was charged."""

    digest: str
    per_round: Vector
    researcher: str
    rounds: int
    charged: int = 0
    closed: bool = False
    fence: int = 0
    blocks: dict[int, list[tuple[int, int]]] = field(default_factory=dict)


@dataclass(slots=True)
class Share:
    """A researcher's spending and, when a quota is set, its limits."""

    limits: Vector | None = None
    charged: Vector = _ZERO
    reserved: Vector = _ZERO


class Prices:
    """Recomputed curves by mechanism digest; one recomputation serves a whole export."""

    def __init__(self) -> None:
        self._curves: dict[str, tuple[float, ...]] = {}

    @property
    def mechanisms(self) -> int:
        """How many different mechanisms were recomputed."""
        return len(self._curves)

    def findings(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        """Whether a stated price is that of the stated mechanism."""
        mechanism, digest = leaf["mechanism"], leaf["mechanism_digest"]
        if canonical.digest(mechanism) != digest:
            yield "price", "the mechanism is not the one its digest names"
            return
        if digest not in self._curves:
            try:
                self._curves[digest] = rdp.curve(mechanism)
            except (ValueError, OverflowError) as error:
                yield "price", f"the mechanism cannot be priced: {error}"
                return
        for order, stated, nats in zip(
            rdp.ORDERS, leaf["per_round"], self._curves[digest], strict=True
        ):
            exact = nats * rdp.PICO
            if abs(stated - exact) > RELATIVE_TOLERANCE * exact + UNITS_TOLERANCE:
                yield (
                    "price",
                    f"order {order:g}: {stated} pico-nats a round stated, {exact:.1f} recomputed",
                )
                return


class Population:
    """State of one population after the entries seen so far."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices
        self._rules: dict[str, Callable[[Mapping[str, Any]], Iterator[Finding]]] = {
            "open": self._open,
            "grant": self._grant,
            "reserve": self._reserve,
            "charge": self._charge,
            "void": self._void,
            "freeze": self._freeze,
            "unfreeze": self._freeze,
            "quota": self._quota,
            "note": self._nothing,
            "deny": self._nothing,
        }
        self.name = ""
        self.epsilon_nano = 0
        self.delta = "0"
        self.weights: Vector = ()
        self.limits: Vector = ()
        self.charged = self.reserved = _ZERO
        self.frozen = False
        self.jobs: dict[str, Job] = {}
        self.shares: dict[str, Share] = {}
        self.rounds_charged = 0

    def apply(self, leaf: Mapping[str, Any]) -> list[Finding]:
        """Take one entry; returns what is wrong with it, empty when nothing is."""
        try:
            rule = self._rules[leaf["kind"]]
            findings = list(rule(leaf))
            findings.extend(self._balance(leaf["balance"]))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            return [("rule", f"a member is missing or of the wrong type: {error!r}")]
        return findings

    @property
    def epsilon_spent(self) -> float:
        """Odometer of what was charged."""
        return self._odometer(self.charged)

    @property
    def epsilon_committed(self) -> float:
        """Odometer of charged and reserved."""
        return self._odometer(_plus(self.charged, self.reserved))

    def _odometer(self, spent: Vector) -> float:
        if not self.limits:
            return 0.0
        return rdp.epsilon_spent(self.epsilon_nano, self.limits, spent) / rdp.NANO

    def _open(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        terms = leaf["terms"]
        self.name = leaf["name"]
        self.epsilon_nano, self.delta = terms["epsilon_nano"], terms["delta"]
        self.weights = tuple(terms["weights"])
        clients = leaf["clients"]
        if terms["orders"] != _ORDER_NAMES:
            yield "terms", "the orders are not the house grid"
        if sum(self.weights) > rdp.FEMTO or min(self.weights) <= 0:
            yield "terms", "the weights are not shares of one δ"
        if not 1e-12 <= float(self.delta) <= min(1e-3, 1.0 / (10.0 * clients)):
            yield "terms", f"δ = {self.delta} is outside its bounds for {clients} clients"
        self.limits = rdp.limits(self.epsilon_nano, self.delta, self.weights)

    def _grant(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        if leaf["epsilon_nano"] <= 0 or not leaf["reason"].strip():
            yield "rule", "a grant must be positive and give a reason"
        self.epsilon_nano += leaf["epsilon_nano"]
        self.limits = rdp.limits(self.epsilon_nano, self.delta, self.weights)

    def _reserve(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        yield from self._prices.findings(leaf)
        cost, name, researcher = _cost(leaf), leaf["job"], leaf["researcher"]
        if name in self.jobs:
            yield "rule", f"job {name} reserved twice"
        if self.frozen:
            yield "rule", f"job {name} reserved while frozen"
        self.jobs[name] = Job(
            leaf["mechanism_digest"], tuple(leaf["per_round"]), researcher, leaf["rounds"]
        )
        self.reserved = _plus(self.reserved, cost)
        if not rdp.fits(self.limits, self.charged, self.reserved):
            yield "filter", f"job {name} was admitted although no order had room"
        share = self.shares.setdefault(researcher, Share())
        share.reserved = _plus(share.reserved, cost)
        if share.limits is not None and not rdp.fits(share.limits, share.charged, share.reserved):
            yield "filter", f"job {name} was admitted beyond its researcher's quota"

    def _charge(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        job = self.jobs[leaf["job"]]
        yield from self._same_job(leaf, job)
        rounds, first, attempt = leaf["rounds"], leaf["round_first"], leaf["attempt"]
        if self.frozen:
            yield "rule", f"job {leaf['job']} charged while frozen"
        if leaf["fence"] < job.fence:
            yield "rule", f"job {leaf['job']} charged by a worker that had lost it"
        job.fence = leaf["fence"]
        if not _add_block(job.blocks.setdefault(attempt, []), first, first + rounds):
            yield "rule", f"job {leaf['job']} charged a round twice in attempt {attempt}"
        job.charged += rounds
        if rounds < 1 or job.charged > job.rounds:
            yield "rule", f"job {leaf['job']} charged more than it had reserved"
        cost = _cost(leaf)
        share = self.shares[job.researcher]
        self.charged, self.reserved = _plus(self.charged, cost), _minus(self.reserved, cost)
        share.charged, share.reserved = _plus(share.charged, cost), _minus(share.reserved, cost)
        self.rounds_charged += rounds
        if not rdp.fits(self.limits, self.charged, self.reserved):
            yield "filter", f"no order is within its limit after a charge of job {leaf['job']}"

    def _void(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        job = self.jobs[leaf["job"]]
        yield from self._same_job(leaf, job)
        if leaf["rounds"] != job.rounds - job.charged or leaf["rounds_charged"] != job.charged:
            yield "rule", f"job {leaf['job']} gave back other rounds than it had left"
        job.closed = True
        cost = _cost(leaf)
        share = self.shares[job.researcher]
        self.reserved = _minus(self.reserved, cost)
        share.reserved = _minus(share.reserved, cost)

    def _same_job(self, leaf: Mapping[str, Any], job: Job) -> Iterator[Finding]:
        """A charge or void must speak of the mechanism that was reserved, while it is open."""
        if job.closed:
            yield "rule", f"job {leaf['job']} was already settled"
        if leaf["mechanism_digest"] != job.digest or tuple(leaf["per_round"]) != job.per_round:
            yield "price", f"job {leaf['job']} pays another price than it reserved"
        if leaf["researcher"] != job.researcher:
            yield "rule", f"job {leaf['job']} belongs to another researcher"

    def _freeze(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        self.frozen = leaf["kind"] == "freeze"
        yield from ()

    def _quota(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        terms = leaf["quota"]
        if sum(terms["weights"]) > rdp.FEMTO:
            yield "terms", "the quota's weights are not shares of one δ"
        share = self.shares.setdefault(leaf["researcher"], Share())
        share.limits = rdp.limits(terms["epsilon_nano"], self.delta, terms["weights"])

    def _nothing(self, _leaf: Mapping[str, Any]) -> Iterator[Finding]:
        yield from ()

    def _balance(self, stated: Mapping[str, Any]) -> Iterator[Finding]:
        """Compare the stated resulting balances with the derived ones."""
        derived = {
            "epsilon_nano": self.epsilon_nano,
            "charged": list(self.charged),
            "reserved": list(self.reserved),
            "frozen": self.frozen,
        }
        for name, value in derived.items():
            if stated[name] != value:
                yield "balance", f"the stated {name} does not follow from the entries before"
        if min(self.reserved) < 0:
            yield "balance", "more was drawn than had been reserved"


def _add_block(blocks: list[tuple[int, int]], start: int, end: int) -> bool:
    """Insert [start, end) into sorted disjoint blocks; False where it overlaps one."""
    place = bisect.bisect_left(blocks, (start, end))
    clear = (place == 0 or blocks[place - 1][1] <= start) and (
        place == len(blocks) or end <= blocks[place][0]
    )
    blocks.insert(place, (start, end))
    return clear


def _cost(leaf: Mapping[str, Any]) -> Vector:
    """The stated cost vector, if it is the price times the rounds."""
    rounds = leaf["rounds"]
    cost = tuple([part * rounds for part in leaf["per_round"]])
    if list(cost) != leaf["cost"]:
        raise ValueError("the cost is not the price times the rounds")
    return cost


def _plus(first: Vector, second: Vector) -> Vector:
    return tuple(map(operator.add, first, second))


def _minus(first: Vector, second: Vector) -> Vector:
    return tuple(map(operator.sub, first, second))
