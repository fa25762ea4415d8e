"""The ledger once more, in plain Python: what each verb must answer and leave behind.

Written from the specification, with exact integers and decimals, so that an error of the accountant
does not hide in its checker. It must never import the accountant or the client's arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal, localcontext
from fractions import Fraction
from typing import Any

from tests.reference import gdp

ORDERS = (
    *(Fraction(halves, 2) for halves in (3, 4, 5, 6, 7, 8)),
    *(Fraction(whole) for whole in (5, 6, 8, 10, 13, 18, 26, 40, 64, 128)),
)
ZERO = (0,) * len(ORDERS)
PICO, NANO, FEMTO = 10**12, 10**9, 10**15
INT64_MAX = 2**63 - 1
MOST_EPSILON_NANO = 10**4 * NANO
# Correlated noise: paid at once, never given back.
WHOLE = ("tree_gaussian", "banded_gaussian")

# The other filter: the whole δ at order 2, whose divergence of a Gaussian is 1/z².
EXACT_AT = ORDERS.index(Fraction(2))
EXACT = tuple(FEMTO if place == EXACT_AT else 0 for place in range(len(ORDERS)))

Vector = tuple[int, ...]
# Which of the two kinds, researcher or project, and whose name.
Holder = tuple[str, str]


def limits(epsilon_nano: int, delta: str, weights: Sequence[int]) -> Vector:
    """B(a) = ε − log1p(−1/a) + log(w_a·δ·a)/(a−1) in pico-nats, rounded down; or μ² alone."""
    if tuple(weights) == EXACT:
        most = gdp.limit(epsilon_nano, delta)
        return tuple(most if place == EXACT_AT else -1 for place in range(len(ORDERS)))
    with localcontext() as context:
        context.prec = 60
        return tuple(
            _floor(epsilon_nano, _decimal(a), Decimal(delta) * weight / FEMTO)
            for a, weight in zip(ORDERS, weights, strict=True)
        )


def _floor(epsilon_nano: int, a: Decimal, delta: Decimal) -> int:
    bound = Decimal(epsilon_nano) / NANO - (1 - 1 / a).ln() + (delta * a).ln() / (a - 1)
    return int((bound * PICO).to_integral_value(rounding=ROUND_FLOOR))


def _decimal(a: Fraction) -> Decimal:
    return Decimal(a.numerator) / Decimal(a.denominator)


def default_shares(epsilon: float, delta: float) -> list[float]:
    """w_k ∝ 1/(1+|k−i|)², i nearest to c = 1 + 0.75·sqrt(L/ρ) in log(a−1)."""
    size = math.log(1 / delta)
    rho = (math.sqrt(size + epsilon) - math.sqrt(size)) ** 2
    centre = 0.75 * math.sqrt(size / rho)
    distance = [abs(math.log(float(a - 1) / centre)) for a in ORDERS]
    nearest = min(range(len(ORDERS)), key=distance.__getitem__)
    raw = [Fraction(1, (1 + abs(k - nearest)) ** 2) for k in range(len(ORDERS))]
    return [float(part / sum(raw)) for part in raw]


def share_of_delta_spent(limit: Vector, epsilon_nano: int) -> float:
    """Σ δ_a over the active orders, as the limits themselves imply it."""
    epsilon = epsilon_nano / NANO
    return math.fsum(
        math.exp(float(a - 1) * (bound / PICO - epsilon + math.log1p(-1 / float(a)))) / float(a)
        for a, bound in zip(ORDERS, limit, strict=True)
        if bound >= 0
    )


def plus(first: Vector, second: Vector) -> Vector:
    """Sum order by order."""
    return tuple(a + b for a, b in zip(first, second, strict=True))


def times(price: Vector, rounds: int) -> Vector:
    """Cost of `rounds`."""
    return tuple(part * rounds for part in price)


def highest(vectors: Sequence[Vector]) -> Vector:
    """Order by order the largest."""
    return tuple(map(max, zip(ZERO, *vectors, strict=True)))


def within(limit: Vector, spent: Vector) -> bool:
    """Whether some order keeps its limit."""
    return any(part <= bound for part, bound in zip(spent, limit, strict=True))


@dataclass
class Job:
    """A reservation: what it holds, and every (round, attempt) it has paid for."""

    researcher: str
    price: Vector
    rounds: int
    whole: bool
    lease: int
    project: str | None = None
    block: str | None = None
    charged: int = 0
    fence: int = 0
    closed: bool = False
    paid: set[tuple[int, int]] = field(default_factory=set)

    @property
    def left(self) -> int:
        """Rounds that may still be charged."""
        return 0 if self.closed else self.rounds - self.charged

    @property
    def holders(self) -> list[Holder]:
        """Whose shares it draws on."""
        project = [("project", self.project)] if self.project is not None else []
        return [("researcher", self.researcher), *project]


@dataclass
class Block:
    """People who are in no other block, and what was spent on them alone."""

    clients: int
    people: set[int] = field(default_factory=set)
    members: int = 0
    charged: Vector = ZERO
    reserved: Vector = ZERO


@dataclass(frozen=True)
class Answer:
    """`code` of a refusal, or None; `rounds` moved; `wrote` whether there is an entry."""

    code: str | None = None
    rounds: int = 0
    wrote: bool = True


class Population:
    """One budget. Balances are sums over the jobs, made anew each time they are asked for."""

    def __init__(
        self, epsilon_nano: int, delta: str, weights: Sequence[int], clients: int = 1000
    ) -> None:
        assert _allowed(weights)
        self.delta, self.weights, self.clients = delta, tuple(weights), clients
        self.epsilon_nano = epsilon_nano
        self.limits = limits(epsilon_nano, delta, self.weights)
        self.frozen = False
        self.jobs: dict[str, Job] = {}
        self.quotas: dict[Holder, tuple[int, Vector]] = {}
        self.blocks: dict[str, Block] = {}
        self.entries = 1
        # Kept beside the jobs so that a million operations end; `summed` must agree with them.
        self.charged, self.reserved = ZERO, ZERO
        self.shares: dict[Holder, tuple[Vector, Vector]] = {}

    def summed(self, counts: Callable[[Job], bool] | None = None) -> tuple[Vector, Vector]:
        """Charged and reserved from the jobs alone; of everybody's when no other is asked for."""
        charged = reserved = ZERO
        for job in self.jobs.values():
            if counts(job) if counts else job.block is None:
                charged = plus(charged, times(job.price, job.charged))
                reserved = plus(reserved, times(job.price, job.left))
        return charged, reserved

    def summed_of(self, holder: Holder) -> tuple[Vector, Vector]:
        """A researcher's or project's, from the jobs alone."""
        return self.summed(lambda job: holder in job.holders)

    def summed_in(self, block: str) -> tuple[Vector, Vector]:
        """A block's own, from the jobs alone."""
        return self.summed(lambda job: job.block == block)

    def reserve(
        self,
        name: str,
        job: Job,
        *,
        kind: str = "gaussian",
        clients: int = 0,
    ) -> Answer:
        """Hold a whole job, priced for `clients` people, or for any number when 0."""
        if job.block is not None and job.block not in self.blocks:
            return Answer("not_found")
        if self.frozen:
            return Answer("frozen")
        people = self.clients if job.block is None else self.blocks[job.block].clients
        if clients not in (0, people) or (self.weights == EXACT and kind != "gaussian"):
            return Answer("invalid_request")
        cost = times(job.price, job.rounds)
        after = plus(self._burden(job.block), cost)
        if max(after) > INT64_MAX:
            return Answer("price_overflow")
        if not within(self.limits, after):
            return Answer("budget_exceeded")
        if not all(self._has_room(holder, cost) for holder in job.holders):
            return Answer("quota_exceeded")
        if name in self.jobs:
            return Answer("conflict")
        self.jobs[name] = job
        self._move(job, 0, job.rounds)
        return Answer(rounds=job.rounds)

    def _has_room(self, holder: Holder, cost: Vector) -> bool:
        """Whether a holder's quota, if any, has room."""
        charged, reserved = self.shares.get(holder, (ZERO, ZERO))
        quota = self.quotas.get(holder)
        return not quota or within(quota[1], plus(plus(charged, reserved), cost))

    def _burden(self, block: str | None) -> Vector:
        """Charged and reserved of whom a job is about: of everybody, the most at each order."""
        here = self.blocks.values() if block is None else [self.blocks[block]]
        everybody = plus(self.charged, self.reserved)
        return plus(everybody, highest([plus(one.charged, one.reserved) for one in here]))

    def open_block(self, name: str, clients: int) -> Answer:
        """A block; all together have no more people than the population."""
        if name in self.blocks:
            return Answer("conflict")
        if sum(one.clients for one in self.blocks.values()) + clients > self.clients:
            return Answer("invalid_request")
        self.blocks[name] = Block(clients)
        return self._wrote()

    def enrol(self, name: str, people: set[int]) -> Answer:
        """A data set's people join a block, unless one of them is in another."""
        if name not in self.blocks:
            return Answer("not_found")
        block = self.blocks[name]
        others = [one.people for other, one in self.blocks.items() if other != name]
        if len(people) != block.clients:
            return Answer("invalid_request")
        if any(people & there for there in others):
            return Answer("conflict")
        if len(people | block.people) + sum(map(len, others)) > self.clients:
            return Answer("invalid_request")
        block.people |= people
        block.members = len(block.people)
        return self._wrote()

    def charge(self, name: str, first: int, rounds: int, attempt: int, fence: int) -> Answer:
        """Spend rounds of a job, before its data is opened."""
        job = self.jobs.get(name)
        if job is None:
            return Answer("not_found")
        if self.frozen:
            return Answer("frozen")
        if fence < job.fence:
            return Answer("conflict")
        taken = job.left if job.whole else min(rounds, job.left)
        if taken == 0:
            return Answer(wrote=False)
        keys = {(number, attempt) for number in range(first, first + taken)}
        if keys & job.paid:
            return Answer("conflict")
        job.paid |= keys
        job.charged, job.fence = job.charged + taken, fence
        self._move(job, taken, -taken)
        return Answer(rounds=taken)

    def settle(self, name: str) -> Answer:
        """Give the uncharged rest back, once."""
        job = self.jobs.get(name)
        if job is None:
            return Answer("not_found")
        if job.closed:
            return Answer(wrote=False)
        left = job.left
        job.closed = True
        self._move(job, 0, -left)
        return Answer(rounds=left)

    def void(self, name: str) -> Answer:
        """Give all of it back; only of a job that never charged."""
        job = self.jobs.get(name)
        if job is not None and job.charged:
            return Answer("conflict")
        return self.settle(name)

    def expire(self, name: str, now: int) -> Answer:
        """Settle a job whose lease has run out."""
        job = self.jobs.get(name)
        if job is not None and not job.closed and job.lease > now:
            return Answer("conflict")
        return self.settle(name)

    def renew(self, name: str, lease: int) -> None:
        """Move the lease of an open reservation; no entry."""
        if name in self.jobs and not self.jobs[name].closed:
            self.jobs[name].lease = lease

    def grant(self, epsilon_nano: int, reason: str = "more") -> Answer:
        """Raise ε; weights, δ and the past stay."""
        if not reason.strip() or self.epsilon_nano + epsilon_nano > MOST_EPSILON_NANO:
            return Answer("invalid_request")
        self.epsilon_nano += epsilon_nano
        self.limits = limits(self.epsilon_nano, self.delta, self.weights)
        return self._wrote()

    def set_frozen(self, value: bool) -> Answer:
        """Stop or allow every reservation and charge."""
        if self.frozen == value:
            return Answer("conflict")
        self.frozen = value
        return self._wrote()

    def set_quota(self, holder: Holder, epsilon_nano: int, weights: Sequence[int]) -> Answer:
        """A researcher's or project's share from now on; what it has spent counts."""
        assert _allowed(weights)
        assert (tuple(weights) == EXACT) == (self.weights == EXACT)
        self.quotas[holder] = epsilon_nano, limits(epsilon_nano, self.delta, weights)
        self.shares.setdefault(holder, (ZERO, ZERO))
        return self._wrote()

    def record(self) -> Answer:
        """A denial or a note: an entry that moves nothing."""
        return self._wrote()

    def _wrote(self) -> Answer:
        self.entries += 1
        return Answer()

    def _move(self, job: Job, charged: int, reserved: int) -> None:
        spent, held = times(job.price, charged), times(job.price, reserved)
        account = self if job.block is None else self.blocks[job.block]
        before = account.charged
        account.charged = plus(account.charged, spent)
        account.reserved = plus(account.reserved, held)
        for holder in job.holders:
            mine = self.shares.get(holder, (ZERO, ZERO))
            self.shares[holder] = plus(mine[0], spent), plus(mine[1], held)
        self.entries += 1
        assert all(a <= b for a, b in zip(before, account.charged, strict=True)), "never falls"
        assert 0 <= job.charged <= job.rounds
        assert min(account.reserved) >= 0
        for block in self.blocks or [None]:
            # Each person lies in one block at most: her total is everybody's and her block's.
            assert within(self.limits, self._burden(block)), "no order within its limit"

    def apply(self, leaf: Mapping[str, Any]) -> Answer:
        """Do what an entry says was done; the caller compares what is left behind."""
        kind, job = leaf["kind"], leaf.get("job")
        if kind == "reserve":
            mechanism, block = leaf["mechanism"], leaf.get("block", {}).get("name")
            held = Job(
                leaf["researcher"],
                tuple(leaf["per_round"]),
                leaf["rounds"],
                whole=mechanism["kind"] in WHOLE,
                lease=0,
                project=leaf.get("project"),
                block=block,
            )
            clients = mechanism.get("clients", 0)
            return self.reserve(job, held, kind=mechanism["kind"], clients=clients)
        if kind == "charge":
            block = (leaf["round_first"], leaf["rounds"], leaf["attempt"], leaf["fence"])
            return self.charge(job, *block)
        if kind == "quota":
            share = leaf["quota"]
            kind = "project" if "project" in leaf else "researcher"
            holder = (kind, leaf[kind])
            return self.set_quota(holder, share["epsilon_nano"], share["weights"])
        if kind == "grant":
            return self.grant(leaf["epsilon_nano"], leaf["reason"])
        if kind in ("freeze", "unfreeze"):
            return self.set_frozen(kind == "freeze")
        if kind == "note" and "opened" in leaf:
            return self.open_block(leaf["opened"]["block"], leaf["opened"]["clients"])
        if kind == "note" and "enrolled" in leaf:
            return self._enrolled(leaf["enrolled"])
        return self.settle(job) if kind == "void" else self.record()

    def _enrolled(self, fact: Mapping[str, Any]) -> Answer:
        """An entry names nobody: only the numbers can be followed."""
        block = self.blocks[fact["block"]]
        assert fact["clients"] == block.clients
        assert fact["members"] == block.members + fact["joined"]
        block.members = fact["members"]
        assert sum(one.members for one in self.blocks.values()) <= self.clients
        return self._wrote()


def _allowed(weights: Sequence[int]) -> bool:
    """Positive shares of one δ, or the one coordinate of the exact filter."""
    return tuple(weights) == EXACT or (sum(weights) <= FEMTO and min(weights) > 0)
