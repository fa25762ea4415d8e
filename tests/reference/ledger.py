"""The ledger once more, in plain Python: what each verb must answer and leave behind.

Written from the specification, with exact integers and decimals, so that an error of the accountant
does not hide in its checker. It must never import the accountant or the client's arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal, localcontext
from fractions import Fraction
from typing import Any

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

Vector = tuple[int, ...]


def limits(epsilon_nano: int, delta: str, weights: Sequence[int]) -> Vector:
    """B(a) = ε − log1p(−1/a) + log(w_a·δ·a)/(a−1) in pico-nats, rounded down."""
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
    charged: int = 0
    fence: int = 0
    closed: bool = False
    paid: set[tuple[int, int]] = field(default_factory=set)

    @property
    def left(self) -> int:
        """Rounds that may still be charged."""
        return 0 if self.closed else self.rounds - self.charged


@dataclass(frozen=True)
class Answer:
    """`code` of a refusal, or None; `rounds` moved; `wrote` whether there is an entry."""

    code: str | None = None
    rounds: int = 0
    wrote: bool = True


class Population:
    """One budget. Balances are sums over the jobs, made anew each time they are asked for."""

    def __init__(self, epsilon_nano: int, delta: str, weights: Sequence[int]) -> None:
        assert sum(weights) <= FEMTO
        assert min(weights) > 0
        self.delta, self.weights = delta, tuple(weights)
        self.epsilon_nano = epsilon_nano
        self.limits = limits(epsilon_nano, delta, self.weights)
        self.frozen = False
        self.jobs: dict[str, Job] = {}
        self.quotas: dict[str, tuple[int, Vector]] = {}
        self.entries = 1
        # Kept beside the jobs so that a million operations end; `summed` must agree with them.
        self.charged, self.reserved = ZERO, ZERO
        self.shares: dict[str, tuple[Vector, Vector]] = {}

    def summed(self, researcher: str | None = None) -> tuple[Vector, Vector]:
        """Charged and reserved from the jobs alone."""
        charged = reserved = ZERO
        for job in self.jobs.values():
            if researcher in (None, job.researcher):
                charged = plus(charged, times(job.price, job.charged))
                reserved = plus(reserved, times(job.price, job.left))
        return charged, reserved

    def reserve(
        self, name: str, researcher: str, price: Vector, rounds: int, *, whole: bool, lease: int
    ) -> Answer:
        """Hold a whole job."""
        cost = times(price, rounds)
        held = plus(self.reserved, cost)
        charged, reserved = self.shares.get(researcher, (ZERO, ZERO))
        quota = self.quotas.get(researcher)
        if self.frozen:
            return Answer("frozen")
        if max(plus(self.charged, held)) > INT64_MAX:
            return Answer("price_overflow")
        if not within(self.limits, plus(self.charged, held)):
            return Answer("budget_exceeded")
        if quota and not within(quota[1], plus(plus(charged, reserved), cost)):
            return Answer("quota_exceeded")
        if name in self.jobs:
            return Answer("conflict")
        self.jobs[name] = Job(researcher, price, rounds, whole, lease)
        self._move(self.jobs[name], 0, rounds)
        return Answer(rounds=rounds)

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

    def set_quota(self, researcher: str, epsilon_nano: int, weights: Sequence[int]) -> Answer:
        """A researcher's share from now on; what she has spent counts."""
        assert sum(weights) <= FEMTO
        self.quotas[researcher] = epsilon_nano, limits(epsilon_nano, self.delta, weights)
        self.shares.setdefault(researcher, (ZERO, ZERO))
        return self._wrote()

    def record(self) -> Answer:
        """A denial or a note: an entry that moves nothing."""
        return self._wrote()

    def _wrote(self) -> Answer:
        self.entries += 1
        return Answer()

    def _move(self, job: Job, charged: int, reserved: int) -> None:
        spent, held = times(job.price, charged), times(job.price, reserved)
        before = self.charged
        self.charged, self.reserved = plus(self.charged, spent), plus(self.reserved, held)
        mine = self.shares.get(job.researcher, (ZERO, ZERO))
        self.shares[job.researcher] = plus(mine[0], spent), plus(mine[1], held)
        self.entries += 1
        assert all(a <= b for a, b in zip(before, self.charged, strict=True)), "charged never falls"
        assert 0 <= job.charged <= job.rounds
        assert min(self.reserved) >= 0
        assert within(self.limits, plus(self.charged, self.reserved)), "no order within its limit"

    def apply(self, leaf: Mapping[str, Any]) -> Answer:
        """Do what an entry says was done; the caller compares what is left behind."""
        kind, job = leaf["kind"], leaf.get("job")
        if kind == "reserve":
            price, whole = tuple(leaf["per_round"]), leaf["mechanism"]["kind"] in WHOLE
            return self.reserve(
                job, leaf["researcher"], price, leaf["rounds"], whole=whole, lease=0
            )
        if kind == "charge":
            block = (leaf["round_first"], leaf["rounds"], leaf["attempt"], leaf["fence"])
            return self.charge(job, *block)
        if kind == "quota":
            share = leaf["quota"]
            return self.set_quota(leaf["researcher"], share["epsilon_nano"], share["weights"])
        if kind == "grant":
            return self.grant(leaf["epsilon_nano"], leaf["reason"])
        if kind in ("freeze", "unfreeze"):
            return self.set_frozen(kind == "freeze")
        return self.settle(job) if kind == "void" else self.record()
