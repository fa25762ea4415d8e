"""Replaying a population's ledger: balances, rules, prices and the filter, from entries alone.

This is a second implementation of the ledger's rules, written against the specification and not
against the server, so that an error in one does not hide in both. It must never import the server
and never trust a stated balance: each one is derived and compared.
"""

from __future__ import annotations

import bisect
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from privacy_gateway import gdp, rdp
from privacy_gateway.people import Block, People
from privacy_gateway.prices import MAX_COUNT, Finding, Prices, Vector
from privacy_gateway.prices import whole as _whole

# A forged number must be refused, not computed with.
MAX_EPSILON_NANO: Final = 10**13
MAX_ROUNDS: Final = 10**6

_ZERO: Final = (0,) * len(rdp.ORDERS)
_INTEGERS: Final = {int}
_ORDER_NAMES: Final = [f"{order:g}" for order in rdp.ORDERS]


@dataclass(slots=True)
class Job:
    """What a reservation held and how much of it was charged."""

    digest: str
    form: Mapping[str, Any]
    mechanism: str
    per_round: list[int]
    researcher: str
    rounds: int
    whole: bool = False
    project: str | None = None
    block: str | None = None
    dataset: str | None = None
    charged: int = 0
    closed: bool = False
    fence: int = 0
    blocks: dict[int, list[tuple[int, int]]] = field(default_factory=dict)


@dataclass(slots=True)
class Share:
    """A researcher's or project's spending and, when a quota is set, its limits."""

    limits: Vector | None = None
    charged: Vector = _ZERO
    reserved: Vector = _ZERO


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
            "note": self._note,
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
        self.projects: dict[str, Share] = {}
        self.people = People()
        self.second_person = False
        self.rounds_charged = 0
        self.spent: dict[str, tuple[dict[str, Any], int]] = {}

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
        """Odometer of what was charged; with blocks, of the one that has spent most."""
        return max(map(self._odometer, self.people.charged(self.charged)))

    @property
    def epsilon_committed(self) -> float:
        """Odometer of charged and reserved; with blocks, of the one that has most."""
        total = _plus(self.charged, self.reserved)
        return max(map(self._odometer, self.people.committed(total)))

    def _odometer(self, spent: Vector) -> float:
        if not self.limits:
            return 0.0
        terms = (self.epsilon_nano, self.delta, self.weights)
        return gdp.spent_of(*terms, self.limits, spent) / rdp.NANO

    def _open(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        terms = leaf["terms"]
        self.name = leaf["name"]
        self.clients = _whole(leaf["clients"], "clients", MAX_COUNT)
        self.epsilon_nano = _whole(terms["epsilon_nano"], "epsilon_nano", MAX_EPSILON_NANO)
        self.second_person = leaf.get("second_person", False)
        self.delta, self.weights = terms["delta"], tuple(terms["weights"])
        if terms["orders"] != _ORDER_NAMES:
            yield "terms", "the orders are not the house grid"
        if not _shares_of_one(self.weights):
            yield "terms", "the weights are not shares of one δ"
        if (terms.get("filter", "rdp") == gdp.FILTER) != gdp.chosen(self.weights):
            yield "terms", "the weights are not those of the filter that is named"
        if not 1e-12 <= float(self.delta) <= min(1e-3, 1.0 / (10.0 * self.clients)):
            yield "terms", f"δ = {self.delta} is outside its bounds for {self.clients} clients"
        self.limits = gdp.limits_of(self.epsilon_nano, self.delta, self.weights)

    def _grant(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        if leaf["epsilon_nano"] <= 0 or not leaf["reason"].strip():
            yield "rule", "a grant must be positive and give a reason"
        if self.second_person and leaf.get("approved_by", leaf["actor"]) == leaf["actor"]:
            yield "rule", "a grant was made without the second person it needs"
        total = self.epsilon_nano + leaf["epsilon_nano"]
        self.epsilon_nano = _whole(total, "epsilon_nano", MAX_EPSILON_NANO)
        self.limits = gdp.limits_of(self.epsilon_nano, self.delta, self.weights)

    def _reservable(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        """What forbids a reservation whatever room there is."""
        name = leaf["job"]
        if gdp.chosen(self.weights):
            yield from _exact(leaf)
        if name in self.jobs:
            yield "rule", f"job {name} reserved twice"
        if self.frozen:
            yield "rule", f"job {name} reserved while frozen"

    def _reserve(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        yield from self._prices.findings(leaf)
        _whole(leaf["rounds"], "rounds", MAX_ROUNDS)
        cost, name, researcher = self._prices.cost(leaf), leaf["job"], leaf["researcher"]
        mechanism, block = leaf["mechanism"], self.people.block_of(leaf)
        clients = self.clients if block is None else block.clients
        if mechanism.get("clients", clients) != clients:
            yield "price", f"job {name} is priced for {mechanism['clients']} clients"
        yield from self._reservable(leaf)
        self.jobs[name] = Job(
            leaf["mechanism_digest"],
            mechanism,
            sys.intern(repr(mechanism)),
            leaf["per_round"],
            researcher,
            leaf["rounds"],
            whole=rdp.charged_whole(mechanism),
            project=leaf.get("project"),
            block=None if block is None else block.name,
            dataset=(leaf.get("facts") or {}).get("dataset"),
        )
        where: Block | Population = self if block is None else block
        where.reserved = _plus(where.reserved, cost)
        if not self._within(block):
            yield "filter", f"job {name} was admitted although no order had room"
        for share in self._shares(self.jobs[name]):
            share.reserved = _plus(share.reserved, cost)
            if share.limits is not None and not _fits(share.limits, share.charged, share.reserved):
                yield "filter", f"job {name} was admitted beyond a quota"
        if block is not None:
            yield from block.disagreements(leaf, admitted=True)

    def _charge(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        job = self.jobs.get(leaf["job"])
        if job is None:
            yield "unreserved", f"job {leaf['job']} was charged without a reservation"
            return
        yield from self._same_job(leaf, job)
        if (leaf.get("facts") or {}).get("dataset", job.dataset) != job.dataset:
            yield "rule", f"job {leaf['job']} ran on another data set than it reserved for"
        yield from self._block(leaf, job)
        cost, block = self._prices.cost(leaf), self.people.blocks.get(job.block or "")
        accounts: list[Share | Block | Population] = [*self._shares(job), block or self]
        for account in accounts:
            account.charged = _plus(account.charged, cost)
            account.reserved = _minus(account.reserved, cost)
        self.rounds_charged += leaf["rounds"]
        mechanism, before = self.spent.get(job.digest, (leaf["mechanism"], 0))
        self.spent[job.digest] = mechanism, before + leaf["rounds"]
        if not self._within(block):
            yield "filter", f"no order is within its limit after a charge of job {leaf['job']}"
        if block is not None:
            yield from block.disagreements(leaf)

    def _block(self, leaf: Mapping[str, Any], job: Job) -> Iterator[Finding]:
        """A charge takes rounds of its own attempt once, within the reservation."""
        rounds = _whole(leaf["rounds"], "rounds", MAX_COUNT)
        first = _whole(leaf["round_first"], "round_first", MAX_COUNT)
        attempt = _whole(leaf["attempt"], "attempt", MAX_COUNT)
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
        job = self.jobs.get(leaf["job"])
        if job is None:
            yield "unreserved", f"job {leaf['job']} gave back what it had not reserved"
            return
        yield from self._same_job(leaf, job)
        left = job.rounds - job.charged
        if leaf["rounds"] > left:
            yield "refund", f"job {leaf['job']} gave back {leaf['rounds'] - left} charged rounds"
        elif leaf["rounds"] != left or leaf["rounds_charged"] != job.charged:
            yield "rule", f"job {leaf['job']} gave back other rounds than it had left"
        job.closed = True
        job.blocks.clear()
        cost, block = self._prices.cost(leaf), self.people.blocks.get(job.block or "")
        accounts: list[Share | Block | Population] = [*self._shares(job), block or self]
        for account in accounts:
            account.reserved = _minus(account.reserved, cost)
        if block is not None:
            yield from block.disagreements(leaf)

    def _same_job(self, leaf: Mapping[str, Any], job: Job) -> Iterator[Finding]:
        """A charge or void must speak of the mechanism that was reserved, while it is open."""
        if job.closed:
            yield "settled", f"job {leaf['job']} was already settled"
        if leaf["mechanism_digest"] != job.digest or leaf["per_round"] != job.per_round:
            yield "price", f"job {leaf['job']} pays another price than it reserved"
        # Texts, not values: to Python, true equals 1. Most charges of a job share one object.
        if leaf["mechanism"] is not job.form:
            if repr(leaf["mechanism"]) != job.mechanism:
                yield "price", f"job {leaf['job']} runs another mechanism than it reserved"
            else:
                job.form = leaf["mechanism"]
        if leaf["researcher"] != job.researcher:
            yield "rule", f"job {leaf['job']} belongs to another researcher"
        if leaf.get("project") != job.project:
            yield "rule", f"job {leaf['job']} belongs to another project"
        if (leaf["block"]["name"] if "block" in leaf else None) != job.block:
            yield "rule", f"job {leaf['job']} counts for other people than it reserved for"

    def _freeze(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        self.frozen = leaf["kind"] == "freeze"
        yield from ()

    def _quota(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        terms = leaf["quota"]
        _whole(terms["epsilon_nano"], "epsilon_nano", MAX_EPSILON_NANO)
        same = gdp.chosen(terms["weights"]) == gdp.chosen(self.weights)
        if not same or not _shares_of_one(terms["weights"]):
            yield "terms", "the quota's weights are not shares of one δ"
        if "project" in leaf:
            share = self.projects.setdefault(leaf["project"], Share())
        else:
            share = self.shares.setdefault(leaf["researcher"], Share())
        share.limits = gdp.limits_of(terms["epsilon_nano"], self.delta, terms["weights"])

    def _note(self, leaf: Mapping[str, Any]) -> Iterator[Finding]:
        if "opened" in leaf:
            yield from self.people.open(leaf["opened"], self.clients)
        if "enrolled" in leaf:
            yield from self.people.enrol(leaf["enrolled"], self.clients)
        if "second_person" in leaf:
            alone = leaf.get("approved_by", leaf["actor"]) == leaf["actor"]
            if leaf["second_person"] is False and alone:
                yield "rule", "one person let the second person go"
            self.second_person = leaf["second_person"] is not False

    def _shares(self, job: Job) -> list[Share]:
        """Whose shares a job draws on."""
        found = [self.shares.setdefault(job.researcher, Share())]
        if job.project is not None:
            found.append(self.projects.setdefault(job.project, Share()))
        return found

    def _within(self, block: Block | None) -> bool:
        """Whether everybody whom a change touched is within the limits at some order.

        What counts for everybody adds to every block; what counts for one, to that one alone.
        """
        if block is None and not self.people.blocks:
            return _fits(self.limits, self.charged, self.reserved)
        touched = self.people.blocks.values() if block is None else (block,)
        return all(
            _fits(self.limits, _plus(self.charged, one.charged), _plus(self.reserved, one.reserved))
            for one in touched
        )

    def _nothing(self, _leaf: Mapping[str, Any]) -> Iterator[Finding]:
        yield from ()

    def _balance(self, stated: Mapping[str, Any]) -> Iterator[Finding]:
        """Compare the stated resulting balances with the derived ones."""
        epsilon_nano = stated["epsilon_nano"]
        if epsilon_nano != self.epsilon_nano or type(epsilon_nano) is not int:
            yield _unfounded("epsilon_nano")
        for name, derived in (("charged", self.charged), ("reserved", self.reserved)):
            said = stated[name]
            # To Python, false equals 0.
            if tuple(said) != derived or not _INTEGERS.issuperset(map(type, said)):
                yield _unfounded(name)
        if stated["frozen"] is not self.frozen:
            yield _unfounded("frozen")
        if min(self.reserved) < 0:
            yield "balance", "more was drawn than had been reserved"


def _unfounded(name: str) -> Finding:
    return "balance", f"the stated {name} does not follow from the entries before"


def _shares_of_one(weights: Sequence[int]) -> bool:
    """Positive shares of one δ, or the one coordinate of the exact filter."""
    return gdp.chosen(weights) or (sum(weights) <= rdp.FEMTO and min(weights) > 0)


def _exact(leaf: Mapping[str, Any]) -> Iterator[Finding]:
    """A budget of unsampled Gaussians adds up nothing else, and no price below 1/z²."""
    mechanism = leaf["mechanism"]
    if mechanism["kind"] not in gdp.KINDS:
        yield "filter", f"job {leaf['job']}: the filter gdp cannot add up a {mechanism['kind']}"
        return
    if mechanism["kind"] == rdp.FREE:
        return
    least = gdp.exact_costs(float(mechanism["noise_multiplier"]))[gdp.INDEX]
    if leaf["per_round"][gdp.INDEX] < least:
        yield "price", f"job {leaf['job']} is priced below 1/z², exactly {least} units"


def _add_block(blocks: list[tuple[int, int]], start: int, end: int) -> bool:
    """Insert [start, end) into sorted disjoint blocks; False where it overlaps one."""
    place = bisect.bisect_left(blocks, (start, end))
    clear = (place == 0 or blocks[place - 1][1] <= start) and (
        place == len(blocks) or end <= blocks[place][0]
    )
    blocks.insert(place, (start, end))
    return clear


def _fits(limit: Vector, charged: Vector, reserved: Vector) -> bool:
    """Whether some order keeps what is charged and reserved within its limit."""
    return any(map(operator.le, map(operator.add, charged, reserved), limit))


def _plus(first: Vector, second: Vector) -> Vector:
    return tuple(map(operator.add, first, second))


def _minus(first: Vector, second: Vector) -> Vector:
    return tuple(map(operator.sub, first, second))
