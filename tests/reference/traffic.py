"""Random clients of the ledger: honest ones, and ones that ask for what must be refused.

A client remembers only names and attempt numbers, never an outcome, so it can go on after an answer
it did not hear. What it was told is in `acknowledged`. The same seed asks the same things.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from accounting import ledger
from accounting.curve import Price, price
from accounting.mechanism import Mechanism
from kit.db import Database
from privacy_gateway.errors import Refused
from tests.accounting.support import FACTS, NOW, job_price, open_population

RESEARCHERS = ("usr_ada", "usr_bob", "usr_eve")
# Refusals an honest ledger may give this traffic; anything else is a failure of the test.
EXPECTED = {"budget_exceeded", "quota_exceeded", "frozen", "conflict", "invalid_request"}


def prices() -> list[Price]:
    """Dear and cheap, sampled and not, and one that is charged whole."""
    return [
        job_price(1000, 10, 1.0),
        job_price(1000, 100, 3.0),
        job_price(1000, 1000, 60.0),
        price(Mechanism("tree_gaussian", 30.0, steps=64)),
    ]


def open_all(database: Database, count: int) -> list[str]:
    """Populations for the traffic, every third so small that it is soon used up; their ids."""
    names = [f"pop_{number}" for number in range(count)]
    with database.unit_of_work() as session:
        for number, name in enumerate(names):
            open_population(session, name, epsilon=3.0 if number % 3 == 0 else 40.0)
    return names


@dataclass
class Client:
    """One client; `step` is one transaction."""

    number: int
    populations: Sequence[str]
    seed: int = 0
    now: datetime = NOW
    jobs: list[str] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    acknowledged: list[str] = field(default_factory=list)
    told: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.seed}/{self.number}")
        self.prices = prices()
        self.made = 0
        self.verbs: dict[str, tuple[int, Callable[[Session], ledger.Entry | None]]] = {
            "reserve": (34, self._reserve),
            "charge": (30, self._charge),
            "settle": (7, self._settle),
            "void": (4, self._void),
            "expire": (4, self._expire),
            "deny": (4, self._deny),
            "repeat": (4, self._repeat),
            "stale": (2, self._stale),
            "again": (2, self._reserve_again),
            "renew": (2, self._renew),
            "grant": (2, self._grant),
            "freeze": (1, self._toggle),
            "quota": (1, self._quota),
        }

    def step(self, database: Database) -> None:
        """One random verb in a transaction of its own; a refusal is an answer too."""
        verb = self.choose()
        try:
            with database.unit_of_work() as session:
                entry = verb(session)
        except Refused as refusal:
            assert refusal.code in EXPECTED, refusal
            self.told[refusal.code] += 1
            return
        self.hear(entry)

    def choose(self) -> Callable[[Session], ledger.Entry | None]:
        """What to do next; time moves on."""
        self.now += timedelta(seconds=self.random.randrange(60))
        weights = [weight for weight, _ in self.verbs.values()]
        (name,) = self.random.choices(list(self.verbs), weights)
        return self.verbs[name][1]

    def hear(self, entry: ledger.Entry | None) -> None:
        """The answer came: what it says may never be lost."""
        self.told["done" if entry else "nothing"] += 1
        if entry is not None:
            self.acknowledged.append(entry.hash)

    def _reserve(self, session: Session) -> ledger.Entry:
        self.made += 1
        job = f"job_{self.number}_{self.made}"
        # Remembered before it is tried: the answer may be lost.
        self.jobs.append(job)
        return self._hold(session, job)

    def _hold(self, session: Session, job: str) -> ledger.Entry:
        name = self.random.choice(list(self.populations))
        balance = ledger.lock(session, [name])[name]
        return ledger.reserve(
            session,
            balance,
            job_id=job,
            researcher_id=self.random.choice(RESEARCHERS),
            price=self.random.choice(self.prices),
            rounds=self.random.choice((1, 3, 10, 30, 60)),
            facts=FACTS,
            now=self.now,
            lease_expires_at=self.now + timedelta(seconds=600),
        )

    def _reserve_again(self, session: Session) -> ledger.Entry | None:
        """A second reservation of one job must be refused."""
        job = self._job()
        known = ledger.held(session, job)
        if known is None:
            return None
        self._hold(session, job)
        raise AssertionError(f"{job} was reserved twice")

    def _charge(self, session: Session, back: int = 0) -> ledger.Entry | None:
        job = self._job()
        if ledger.held(session, job) is None:
            return None
        if not back:
            self.attempts[job] += 1
        first, rounds = self.random.randrange(1, 50), self.random.randrange(1, 20)
        charged = ledger.charge(
            session,
            job_id=job,
            round_first=first,
            rounds=rounds,
            attempt=max(1, self.attempts[job]),
            fence=self.attempts[job],
            facts=FACTS,
            now=self.now,
        )
        return charged.entry

    def _repeat(self, session: Session) -> ledger.Entry | None:
        """The same attempt once more: another block, or a conflict."""
        return self._charge(session, back=1)

    def _stale(self, session: Session) -> None:
        """A worker that has lost the job must not charge."""
        job = self._job()
        present = ledger.held(session, job)
        if present is None or present.fence == 0:
            return
        ledger.charge(
            session,
            job_id=job,
            round_first=1000,
            rounds=1,
            attempt=1000 + self.made,
            fence=present.fence - 1,
            facts=FACTS,
            now=self.now,
        )
        raise AssertionError(f"{job} was charged by a stale worker")

    def _settle(self, session: Session) -> ledger.Entry | None:
        return self._end(session, "settle")

    def _void(self, session: Session) -> ledger.Entry | None:
        return self._end(session, "void")

    def _expire(self, session: Session) -> ledger.Entry | None:
        return self._end(session, "expire")

    def _end(self, session: Session, verb: str) -> ledger.Entry | None:
        job = self._job()
        if ledger.held(session, job) is None:
            return None
        if self.random.random() < 0.8:
            self.jobs.remove(job)
        if verb == "expire":
            return ledger.expire(session, job_id=job, facts=FACTS, now=self.now)
        end = ledger.settle if verb == "settle" else ledger.void
        return end(session, job_id=job, reason=verb, facts=FACTS, now=self.now)

    def _deny(self, session: Session) -> ledger.Entry:
        return ledger.deny(
            session,
            population_id=self.random.choice(list(self.populations)),
            job_id=None,
            researcher_id=self.random.choice(RESEARCHERS),
            code="policy_denied",
            facts={"rules": ["price_cap"]},
            now=self.now,
        )

    def _renew(self, session: Session) -> None:
        ledger.renew_lease(session, self._job(), self.now + timedelta(seconds=900))

    def _grant(self, session: Session) -> ledger.Entry:
        return ledger.grant(
            session,
            population_id=self.random.choice(list(self.populations)),
            epsilon=self.random.choice((0.01, 0.1, 0.5)),
            reason="more",
            actor_id="usr_owner",
            now=self.now,
        )

    def _toggle(self, session: Session) -> ledger.Entry:
        """Freeze a population, and thaw at once what anybody has frozen."""
        for name in self.populations:
            balance = ledger.lock(session, [name])[name]
            if balance.frozen:
                return self._set_frozen(session, name, ledger.unfreeze)
        return self._set_frozen(session, self.random.choice(list(self.populations)), ledger.freeze)

    def _set_frozen(
        self, session: Session, name: str, verb: Callable[..., ledger.Entry]
    ) -> ledger.Entry:
        return verb(session, population_id=name, reason="x", actor_id="usr_owner", now=self.now)

    def _quota(self, session: Session) -> ledger.Entry:
        return ledger.set_quota(
            session,
            population_id=self.random.choice(list(self.populations)),
            researcher_id=self.random.choice(RESEARCHERS),
            epsilon=self.random.choice((1.5, 4.0, 20.0)),
            actor_id="usr_owner",
            now=self.now,
        )

    def _job(self) -> str:
        """One of the client's own jobs, mostly a recent one."""
        if not self.jobs:
            return "job_none"
        return self.random.choice(self.jobs[-12:] if self.random.random() < 0.9 else self.jobs)
