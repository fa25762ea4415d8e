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
# Prices are rounded up, so at most one unit too much and never too little; a fifth for the digits
# that are lost near 1.
UNITS_TOLERANCE: Final = 0.2

# A forged number must be refused, not computed with: one price could take all memory.
MAX_EPSILON_NANO: Final = 10**13
MAX_COUNT: Final = 10**9
MAX_ROUNDS: Final = 10**6
_NOISES: Final = ("noise_multiplier", "clip_count_noise")
_COUNTS: Final = ("clients", "clients_per_round", "steps")

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
    whole: bool = False
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
                _check_mechanism(mechanism)
                self._curves[digest] = rdp.curve(mechanism)
            except (ValueError, ArithmeticError) as error:
                yield "price", f"the mechanism cannot be priced: {error}"
                return
        for order, stated, nats in zip(
            rdp.ORDERS, leaf["per_round"], self._curves[digest], strict=True
        ):
            exact = nats * rdp.PICO
            slack = RELATIVE_TOLERANCE * exact + UNITS_TOLERANCE
            if not max(1, exact - slack) <= stated <= exact + slack + 1:
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
        self.clients = 0
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
        if (leaf.get("kind") == "open") != (leaf.get("seq") == 1):
            return [("rule", "a chain begins with its opening entry, and has no other")]
        try:
            rule = self._rules[leaf["kind"]]
            findings = list(rule(leaf))
            findings.extend(self._balance(leaf["balance"]))
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
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
        self.clients = _whole(leaf["clients"], "clients", MAX_COUNT)
        self.epsilon_nano = _whole(terms["epsilon_nano"], "epsilon_nano", MAX_EPSILON_NANO)
        self.delta, self.weights = terms["delta"], tuple(terms["weights"])
        if terms["orders"] != _ORDER_NAMES:
            yield "terms", "the orders are not the house grid"
        if sum(self.weights) > rdp.FEMTO or min(self.weights) <= 0:
            yield "terms", "the weights are not shares of one δ"
        if not 1e-12 <= float(self.delta) <= min(1e-3, 1.0 / (10.0 * self.clients)):
            yield "terms", f"δ = {self.delta} is outside its bounds for {self.clients} clients"
        self.limits = rdp.limits(self.epsilon_nano, self.delta, self.weights)

    def _grant(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        if leaf["epsilon_nano"] <= 0 or not leaf["reason"].strip():
            yield "rule", "a grant must be positive and give a reason"
        total = self.epsilon_nano + leaf["epsilon_nano"]
        self.epsilon_nano = _whole(total, "epsilon_nano", MAX_EPSILON_NANO)
        self.limits = rdp.limits(self.epsilon_nano, self.delta, self.weights)

    def _reserve(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        yield from self._prices.findings(leaf)
        _whole(leaf["rounds"], "rounds", MAX_ROUNDS)
        cost, name, researcher = _cost(leaf), leaf["job"], leaf["researcher"]
        mechanism = leaf["mechanism"]
        if mechanism.get("clients", self.clients) != self.clients:
            yield "price", f"job {name} is priced for {mechanism['clients']} clients"
        if name in self.jobs:
            yield "rule", f"job {name} reserved twice"
        if self.frozen:
            yield "rule", f"job {name} reserved while frozen"
        self.jobs[name] = Job(
            leaf["mechanism_digest"],
            tuple(leaf["per_round"]),
            researcher,
            leaf["rounds"],
            whole=mechanism["kind"] == "tree_gaussian",
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
        yield from self._block(leaf, job)
        cost = _cost(leaf)
        share = self.shares[job.researcher]
        self.charged, self.reserved = _plus(self.charged, cost), _minus(self.reserved, cost)
        share.charged, share.reserved = _plus(share.charged, cost), _minus(share.reserved, cost)
        self.rounds_charged += leaf["rounds"]
        if not rdp.fits(self.limits, self.charged, self.reserved):
            yield "filter", f"no order is within its limit after a charge of job {leaf['job']}"

    def _block(self, leaf: Mapping[str, Any], job: Job) -> Iterator[Finding]:
        """A charge takes rounds of its own attempt once, within the reservation."""
        rounds, first, attempt = (
            _whole(leaf[name], name, MAX_COUNT) for name in ("rounds", "round_first", "attempt")
        )
        if self.frozen:
            yield "rule", f"job {leaf['job']} charged while frozen"
        if leaf["fence"] < job.fence:
            yield "rule", f"job {leaf['job']} charged by a worker that had lost it"
        job.fence = leaf["fence"]
        if not _add_block(job.blocks.setdefault(attempt, []), first, first + rounds):
            yield "rule", f"job {leaf['job']} charged a round twice in attempt {attempt}"
        job.charged += rounds
        if job.charged > job.rounds:
            yield "rule", f"job {leaf['job']} charged more than it had reserved"
        if job.whole and rounds != job.rounds:
            yield "rule", f"job {leaf['job']} charged a part of what is charged whole"

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
        _whole(terms["epsilon_nano"], "epsilon_nano", MAX_EPSILON_NANO)
        if sum(terms["weights"]) > rdp.FEMTO or min(terms["weights"]) <= 0:
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


def _check_mechanism(mechanism: Mapping[str, Any]) -> None:
    """ValueError for a number that no plan can have."""
    for name in _NOISES:
        if name in mechanism and not 0.01 <= float(mechanism[name]) <= 1e4:
            raise ValueError(f"{name} {mechanism[name]} is outside 0.01 to 1e4")
    for name in _COUNTS:
        if name in mechanism:
            _whole(mechanism[name], name, MAX_COUNT)


def _whole(value: Any, name: str, most: int) -> int:
    """A whole number from 1 to `most`; a bool is none."""
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{name} is not a whole number from 1 to {most}")
    return value


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
