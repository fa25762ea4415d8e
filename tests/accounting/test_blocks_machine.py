"""A hundred people, each with her own book: whatever happens, nobody passes the budget."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from sqlalchemy.orm import Session

from accounting import ledger
from accounting.curve import Price, price
from accounting.mechanism import Mechanism
from kit.db import Database
from privacy_gateway.verify import verify
from tests.accounting.regions import (
    charge,
    enrol,
    opened,
)
from tests.accounting.support import FACTS, NOW, SOON, export, open_population, refusal_of


@dataclass
class Person:
    """The reference: one person, and everything that was ever computed on her data."""

    block: str | None = None
    spent: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def within(self, limits: tuple[int, ...]) -> bool:
        """Whether some order holds all of it."""
        totals = [sum(parts) for parts in zip(*self.spent.values(), strict=True)] or [0] * 16
        return any(total <= limit for total, limit in zip(totals, limits, strict=True))


class BlocksMachine(RuleBasedStateMachine):
    """A hundred people, files about some of them, jobs on files; each person keeps her own book."""

    jobs = Bundle("jobs")

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database(f"sqlite:///{Path(self.folder.name) / 'ledger.db'}")
        self.database.create_all()
        with self.database.unit_of_work() as session:
            open_population(session, clients=100, epsilon=2.0)
        self.people = {number: Person() for number in range(100)}
        self.sizes: dict[str, int] = {}
        self.files: dict[str, tuple[str, list[int]]] = {}
        self.left: dict[str, int] = {}
        self.prices: dict[str, tuple[Price, list[int], int]] = {}
        self.count = 0

    @rule(name=st.sampled_from("abcd"), size=st.integers(5, 40))
    def open_a_block(self, name: str, size: int) -> None:
        refused = refusal_of(lambda: self._do(lambda session: opened(session, name, size)))
        fits = name not in self.sizes and sum(self.sizes.values()) + size <= 100
        assert (refused is None) == fits
        if fits:
            self.sizes[name] = size

    @rule(name=st.sampled_from("abcd"), first=st.integers(0, 99), step=st.sampled_from([1, 3]))
    def register_a_file(self, name: str, first: int, step: int) -> None:
        size = self.sizes.get(name, 5)
        persons = [(first + step * number) % 100 for number in range(size)]
        self.count += 1
        dataset = f"ds_{self.count}"
        refused = refusal_of(
            lambda: self._do(lambda session: enrol(session, name, persons, dataset))
        )
        apart = all(self.people[person].block in (None, name) for person in persons)
        assert (refused is None) == (apart and name in self.sizes)
        if refused is None:
            self.files[dataset] = (name, persons)
            for person in persons:
                self.people[person].block = name

    @rule(
        target=jobs,
        data=st.data(),
        rounds=st.integers(1, 60),
        noise=st.sampled_from([0.8, 2.0, 8.0]),
        everybody=st.booleans(),
    )
    def reserve(self, data: Any, rounds: int, noise: float, everybody: bool) -> object:
        self.count += 1
        job, block, persons, dataset = f"job_{self.count}", None, list(self.people), "ds_all"
        if self.files and not everybody:
            dataset = data.draw(st.sampled_from(sorted(self.files)))
            block, persons = self.files[dataset]
        clients = 100 if block is None else self.sizes[block]
        asked = price(Mechanism("poisson_gaussian", noise, clients, max(1, clients // 5)))
        with self.database.read() as session:
            before = ledger.balance(session, "pop_a")
        # Conservative: a file's block may hold more people than the file.
        trial = {
            person: Person(None, self.people[person].spent | {job: asked.total(rounds)})
            for person in persons
        }
        refused = refusal_of(
            lambda: self._do(
                lambda session: self._reserve(session, job, block, dataset, asked, rounds)
            )
        )
        if refused is not None:
            assert refused.code == "budget_exceeded"
            return multiple()
        assert all(person.within(before.limits) for person in trial.values())
        for person in persons:
            self.people[person].spent[job] = asked.total(rounds)
        self.left[job], self.prices[job] = rounds, (asked, persons, rounds)
        return job

    @rule(job=jobs, rounds=st.integers(1, 40))
    def charge(self, job: str, rounds: int) -> None:
        self.count += 1
        taken: list[int] = []
        attempt = self.count
        self._do(lambda session: taken.append(_taken(session, job, rounds, attempt)))
        assert taken == [min(rounds, self.left[job])]
        self.left[job] -= taken[0]

    @rule(job=jobs)
    def settle(self, job: str) -> None:
        self._do(
            lambda session: ledger.settle(session, job_id=job, reason="done", facts=FACTS, now=NOW)
        )
        asked, persons, rounds = self.prices[job]
        if self.left[job]:
            self.left[job], done = 0, rounds - self.left[job]
            for person in persons:
                self.people[person].spent[job] = asked.total(done)
            self.prices[job] = (asked, persons, done)

    @invariant()
    def nobody_is_beyond_the_budget(self) -> None:
        if not hasattr(self, "database"):
            return
        with self.database.read() as session:
            limits = ledger.balance(session, "pop_a").limits
        assert all(person.within(limits) for person in self.people.values())

    def teardown(self) -> None:
        if hasattr(self, "database"):
            report = verify(export(self.database))
            assert report.ok, report.problems[:3]
            self.database.close()
            self.folder.cleanup()

    def _reserve(
        self,
        session: Session,
        job: str,
        block: str | None,
        dataset: str,
        asked: Price,
        rounds: int,
    ) -> None:
        ledger.reserve(
            session,
            ledger.lock(session, ["pop_a"])["pop_a"],
            job_id=job,
            researcher_id="usr_r",
            price=asked,
            rounds=rounds,
            facts=FACTS | {"dataset": dataset},
            now=NOW,
            lease_expires_at=SOON,
            block=block,
        )

    def _do(self, act: Any) -> None:
        with self.database.unit_of_work() as session:
            act(session)


def _taken(session: Session, job: str, rounds: int, attempt: int) -> int:
    return charge(session, job, rounds, attempt).rounds_charged


TestBlocksMachine = BlocksMachine.TestCase
TestBlocksMachine.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
