"""A state machine over the ledger, checked against a reference of a few lines after every step."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from accounting import filter as admission
from accounting import ledger
from accounting.curve import Price
from kit.db import Database
from privacy_gateway.errors import Refused
from privacy_gateway.verify import verify
from tests.accounting.support import (
    FACTS,
    NOW,
    SOON,
    balance,
    charge,
    export,
    job_price,
    open_population,
    refusal_of,
    reserve,
    settle,
)

PRICES = [job_price(1000, 10, 1.0), job_price(1000, 300, 1.5), job_price(1000, 1000, 20.0)]


class LedgerMachine(RuleBasedStateMachine):
    """Arbitrary interleavings of the verbs on one population."""

    jobs = Bundle("jobs")

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database(f"sqlite:///{Path(self.folder.name) / 'ledger.db'}")
        self.database.create_all()
        with self.database.unit_of_work() as session:
            open_population(session, epsilon=4.0)
        self.count = 0
        self.frozen = False
        self.held: dict[str, list[int]] = {}
        self.attempts: dict[str, int] = {}
        self.per_round: dict[str, tuple[int, ...]] = {}
        self.charged_before = admission.zero()

    @rule(target=jobs, rounds=st.integers(1, 400), which=st.sampled_from(range(len(PRICES))))
    def reserve(self, rounds: int, which: int) -> object:
        self.count += 1
        job, cost = f"job_{self.count}", PRICES[which]
        before = balance(self.database)
        refusal = refusal_of(lambda: self._reserve(job, rounds, cost))
        expected = None if before.admits(cost.total(rounds)) else "budget_exceeded"
        if self.frozen:
            expected = "frozen"
        assert (refusal.code if refusal else None) == expected
        if refusal:
            return multiple()
        self.held[job] = [rounds, 0]
        self.per_round[job] = cost.per_round
        return job

    @rule(job=jobs, rounds=st.integers(1, 150))
    def charge(self, job: str, rounds: int) -> None:
        attempt = self.attempts[job] = self.attempts.get(job, 0) + 1
        refusal = refusal_of(lambda: self._charge(job, rounds, attempt))
        assert (refusal.code if refusal else None) == ("frozen" if self.frozen else None)

    @rule(job=consumes(jobs), expire=st.booleans())
    def settle(self, job: str, expire: bool) -> None:
        reserved, charged = self.held[job]
        with self.database.unit_of_work() as session:
            if expire:
                entry = ledger.expire(session, job_id=job, facts=FACTS, now=SOON)
            else:
                entry = settle(session, job)
        assert entry is not None
        assert entry.rounds == reserved - charged
        self.held[job][0] = charged

    @rule(rounds=st.integers(1, 300))
    def reserve_and_void_is_identity(self, rounds: int) -> None:
        if self.frozen:
            return
        before = balance(self.database)
        self.count += 1
        try:
            with self.database.unit_of_work() as session:
                job = f"job_{self.count}"
                reserve(session, job, rounds=rounds, cost=PRICES[0])
                ledger.void(session, job_id=job, reason="identity", facts=FACTS, now=NOW)
        except Refused:
            self.count -= 1
        after = balance(self.database)
        assert (before.charged, before.reserved) == (after.charged, after.reserved)

    @rule(epsilon=st.floats(0.1, 1.0))
    def grant(self, epsilon: float) -> None:
        with self.database.unit_of_work() as session:
            ledger.grant(
                session,
                population_id="pop_a",
                epsilon=round(epsilon, 3),
                reason="more",
                actor_id="usr_owner",
                now=NOW,
            )

    @rule()
    def toggle_freeze(self) -> None:
        verb = ledger.unfreeze if self.frozen else ledger.freeze
        with self.database.unit_of_work() as session:
            verb(session, population_id="pop_a", reason="why", actor_id="usr_owner", now=NOW)
        self.frozen = not self.frozen

    def _reserve(self, job: str, rounds: int, cost: Price) -> None:
        with self.database.unit_of_work() as session:
            reserve(session, job, rounds=rounds, cost=cost)

    def _charge(self, job: str, rounds: int, attempt: int) -> None:
        with self.database.unit_of_work() as session:
            taken = charge(session, job, 1, rounds, attempt=attempt).rounds_charged
        reserved, charged = self.held[job]
        assert taken == min(rounds, reserved - charged)
        self.held[job][1] += taken

    @invariant()
    def balances_are_the_reference(self) -> None:
        if not hasattr(self, "database"):
            return
        now = balance(self.database)
        charged = reserved = admission.zero()
        for job, (whole, done) in self.held.items():
            price = self.per_round[job]
            charged = admission.add(charged, tuple(part * done for part in price))
            reserved = admission.add(reserved, tuple(part * (whole - done) for part in price))
        assert (now.charged, now.reserved) == (charged, reserved)
        assert admission.admits(now.limits, charged, reserved, admission.zero())
        assert all(a >= b for a, b in zip(charged, self.charged_before, strict=True))
        assert now.frozen == self.frozen
        self.charged_before = charged

    def teardown(self) -> None:
        if hasattr(self, "database"):
            report = verify(export(self.database))
            assert report.ok, report.problems
            assert report.populations["pop_a"].rounds_charged == sum(
                done for _, done in self.held.values()
            )
            self.database.close()
            self.folder.cleanup()


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_the_order_of_settled_jobs_does_not_matter(tmp_path: Path) -> None:
    balances = []
    for name, order in (("a", [0, 1, 2]), ("b", [2, 0, 1])):
        database = Database(f"sqlite:///{tmp_path / name}.db")
        database.create_all()
        with database.unit_of_work() as session:
            open_population(session)
            for number in order:
                reserve(session, f"job_{number}", rounds=30, cost=PRICES[number])
                charge(session, f"job_{number}", 1, 10 + number)
                settle(session, f"job_{number}")
        now = balance(database)
        balances.append((now.charged, now.reserved, now.limits))
        database.close()
    assert balances[0] == balances[1]
