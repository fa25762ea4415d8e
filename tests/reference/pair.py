"""The ledger and its reference in step: one request to both, and the same answer from both.

Every method takes the session of the ledger's transaction. A refusal takes back its own part only,
so that many requests can share a transaction. The comparison is exact: code, rounds, balances.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy.orm import Session

from accounting import blocks, ledger
from accounting.curve import Price
from accounting.quotas import Kind
from kit.clock import micros
from privacy_gateway.errors import Refused
from tests.accounting.support import FACTS, NOW, job_price, open_population
from tests.reference.ledger import (
    EXACT,
    FEMTO,
    Answer,
    Job,
    Population,
    default_shares,
    share_of_delta_spent,
)

OWNER = "usr_owner"
NANO = 10**9


class Pair:
    """Both ledgers, and how often which answer was given."""

    def __init__(self) -> None:
        self.populations: dict[str, Population] = {}
        self.home: dict[str, str] = {}
        self.enrolled: dict[tuple[str, str | None], str] = {}
        self.told: Counter[str] = Counter()

    def open(
        self,
        session: Session,
        name: str,
        epsilon: float,
        delta: float = 1e-6,
        *,
        exact: bool = False,
        clients: int = 1000,
    ) -> None:
        """A new budget with the default weights, or with the exact filter of Gaussians."""
        opened = open_population(
            session,
            name,
            epsilon=epsilon,
            delta=delta,
            clients=clients,
            filter="gdp" if exact else "rdp",
        )
        one = Population(round(epsilon * NANO), repr(delta), opened.terms.weights, clients)
        assert opened.limits == one.limits
        _check_weights(one.weights, epsilon, delta, exact=exact)
        if not exact:
            assert share_of_delta_spent(one.limits, one.epsilon_nano) <= delta * (1 + 1e-9)
        self.populations[name] = one

    def reserve(
        self,
        session: Session,
        job: str,
        population: str,
        researcher: str,
        cost: Price,
        rounds: int,
        lease: datetime,
        *,
        project: str | None = None,
        block: str | None = None,
    ) -> Answer:
        """Lock, then reserve."""
        # A block's job is about a data set that was enrolled in it.
        facts = FACTS | {"dataset": self.enrolled.get((population, block), "ds_all")}

        def act() -> ledger.Entry:
            balance = ledger.lock(session, [population])[population]
            return ledger.reserve(
                session,
                balance,
                job_id=job,
                researcher_id=researcher,
                price=cost,
                rounds=rounds,
                facts=facts,
                now=NOW,
                lease_expires_at=lease,
                project=project,
                block=block,
            )

        home = self.home.get(job, population)
        assert home == population, "the reference knows a job in one population"
        mechanism = cost.mechanism
        asked = Job(
            researcher,
            cost.per_round,
            rounds,
            whole=mechanism.whole,
            lease=micros(lease),
            project=project,
            block=block,
        )
        answer = self._both(
            session,
            act,
            lambda one: one.reserve(job, asked, kind=mechanism.kind, clients=mechanism.clients),
            population,
        )
        if answer.code is None:
            self.home[job] = population
        return answer

    def open_block(self, session: Session, population: str, name: str, clients: int) -> Answer:
        """Open a block."""
        return self._both(
            session,
            lambda: blocks.open_block(
                session,
                population_id=population,
                name=name,
                clients=clients,
                reason="a region",
                actor_id=OWNER,
                now=NOW,
            ),
            lambda one: one.open_block(name, clients),
            population,
        )

    def enrol(self, session: Session, population: str, name: str, people: set[int]) -> Answer:
        """Register a data set about these people in a block."""
        dataset = f"ds_{len(self.enrolled)}_{name}"
        hashes = [hashlib.sha256(str(person).encode()).digest() for person in sorted(people)]
        answer = self._both(
            session,
            lambda: blocks.enrol(
                session,
                population_id=population,
                name=name,
                dataset_id=dataset,
                hashes=hashes,
                key_id="0" * 16,
                actor_id=OWNER,
                now=NOW,
            ),
            lambda one: one.enrol(name, people),
            population,
        )
        if answer.code is None:
            self.enrolled[population, name] = dataset
        return answer

    def charge(
        self, session: Session, job: str, first: int, rounds: int, attempt: int, fence: int
    ) -> Answer:
        """Charge a block."""
        return self._of_job(
            session,
            job,
            lambda: ledger.charge(
                session,
                job_id=job,
                round_first=first,
                rounds=rounds,
                attempt=attempt,
                fence=fence,
                facts=FACTS,
                now=NOW,
            ),
            lambda one: one.charge(job, first, rounds, attempt, fence),
        )

    def settle(self, session: Session, job: str) -> Answer:
        """Settle."""
        act = lambda: ledger.settle(session, job_id=job, reason="done", facts=FACTS, now=NOW)  # noqa: E731
        return self._of_job(session, job, act, lambda one: one.settle(job))

    def void(self, session: Session, job: str) -> Answer:
        """Void."""
        act = lambda: ledger.void(session, job_id=job, reason="void", facts=FACTS, now=NOW)  # noqa: E731
        return self._of_job(session, job, act, lambda one: one.void(job))

    def expire(self, session: Session, job: str, now: datetime) -> Answer:
        """Expire at `now`."""
        act = lambda: ledger.expire(session, job_id=job, facts=FACTS, now=now)  # noqa: E731
        return self._of_job(session, job, act, lambda one: one.expire(job, micros(now)))

    def renew(self, session: Session, job: str, lease: datetime) -> None:
        """Move a lease."""
        ledger.renew_lease(session, job, lease)
        if job in self.home:
            self.populations[self.home[job]].renew(job, micros(lease))

    def grant(self, session: Session, population: str, milli: int, reason: str = "more") -> Answer:
        """Raise ε by thousandths."""
        return self._both(
            session,
            lambda: ledger.grant(
                session,
                population_id=population,
                epsilon=milli / 1000,
                reason=reason,
                actor_id=OWNER,
                now=NOW,
            ),
            lambda one: one.grant(milli * NANO // 1000, reason),
            population,
        )

    def set_frozen(self, session: Session, population: str, value: bool) -> Answer:
        """Freeze or unfreeze."""
        verb = ledger.freeze if value else ledger.unfreeze
        return self._both(
            session,
            lambda: verb(session, population_id=population, reason="x", actor_id=OWNER, now=NOW),
            lambda one: one.set_frozen(value),
            population,
        )

    def set_quota(
        self,
        session: Session,
        population: str,
        holder: str,
        milli: int,
        kind: Kind = "researcher",
    ) -> Answer:
        """Give a researcher or project a share in thousandths of ε; weights are the server's."""
        chosen: list[tuple[int, ...]] = []

        def act() -> ledger.Entry:
            entry = ledger.set_quota(
                session,
                population_id=population,
                researcher_id=holder,
                epsilon=milli / 1000,
                actor_id=OWNER,
                now=NOW,
                kind=kind,
            )
            chosen.append(tuple(entry.leaf["quota"]["weights"]))
            return entry

        def expect(one: Population) -> Answer:
            exact = one.weights == EXACT
            _check_weights(chosen[0], milli / 1000, float(one.delta), exact=exact)
            return one.set_quota((kind, holder), milli * NANO // 1000, chosen[0])

        return self._both(session, act, expect, population)

    def deny(self, session: Session, population: str, researcher: str) -> Answer:
        """Record a refusal."""
        return self._both(
            session,
            lambda: ledger.deny(
                session,
                population_id=population,
                job_id="job_denied",
                researcher_id=researcher,
                code="policy_denied",
                facts={"rules": ["r"]},
                now=NOW,
                price=job_price(),
                rounds=3,
            ),
            lambda one: one.record(),
            population,
        )

    def note(self, session: Session, population: str) -> Answer:
        """Record a note."""
        return self._both(
            session,
            lambda: ledger.note(
                session, population_id=population, reason="n", actor_id=OWNER, facts={}, now=NOW
            ),
            lambda one: one.record(),
            population,
        )

    def compare(self, session: Session) -> None:
        """Every balance, share and reservation, read by the ledger's own verbs."""
        for name, one in self.populations.items():
            now = ledger.balance(session, name)
            assert (now.charged, now.reserved) == (one.charged, one.reserved) == one.summed()
            assert (now.limits, now.frozen) == (one.limits, one.frozen)
            assert now.head_seq == now.version == one.entries
            shares = {
                (share.kind, share.holder_id): share
                for share in ledger.quotas.quotas(session, name)
            }
            assert shares.keys() == one.shares.keys()
            for holder, share in shares.items():
                assert (share.charged, share.reserved) == one.summed_of(holder)
            there = {block.name: block for block in blocks.blocks(session, name)}
            assert there.keys() == one.blocks.keys()
            for block, state in there.items():
                assert (state.charged, state.reserved) == one.summed_in(block)
                assert state.members == len(one.blocks[block].people)
            for job, expected in one.jobs.items():
                held = ledger.held(session, job)
                assert held is not None
                assert (held.rounds_charged, held.rounds_left) == (expected.charged, expected.left)
                assert (held.lease_expires_at, held.fence) == (expected.lease, expected.fence)

    def _of_job(
        self,
        session: Session,
        job: str,
        act: Callable[[], Any],
        expect: Callable[[Population], Answer],
    ) -> Answer:
        if job in self.home:
            return self._both(session, act, expect, self.home[job])
        with pytest.raises(Refused) as refusal, session.begin_nested():
            act()
        assert refusal.value.code == "not_found"
        return Answer("not_found")

    def _both(
        self,
        session: Session,
        act: Callable[[], Any],
        expect: Callable[[Population], Answer],
        population: str,
    ) -> Answer:
        code, given = None, None
        try:
            with session.begin_nested():
                given = act()
        except Refused as refusal:
            code = refusal.code
        one = self.populations[population]
        answer = expect(one)
        self.told[answer.code or ("done" if answer.wrote else "nothing")] += 1
        assert answer.code == code
        if code is None:
            self._compare_entry(given, answer, one)
        return answer

    def _compare_entry(self, given: Any, answer: Answer, one: Population) -> None:
        """The entry that was written states the reference's balance."""
        entry = given.entry if isinstance(given, ledger.Charge) else given
        assert (entry is not None) == answer.wrote
        if isinstance(given, ledger.Charge):
            assert given.rounds_charged == answer.rounds
        if entry is None:
            return
        stated = entry.leaf["balance"]
        assert entry.seq == one.entries
        assert answer.rounds in (0, entry.rounds)
        assert tuple(stated["charged"]) == one.charged
        assert tuple(stated["reserved"]) == one.reserved
        assert (stated["epsilon_nano"], stated["frozen"]) == (one.epsilon_nano, one.frozen)


def _check_weights(weights: tuple[int, ...], epsilon: float, delta: float, *, exact: bool) -> None:
    if exact:
        assert weights == EXACT
        return
    assert sum(weights) <= FEMTO
    for weight, share in zip(weights, default_shares(epsilon, delta), strict=True):
        assert weight / FEMTO == pytest.approx(share, abs=1e-12)
