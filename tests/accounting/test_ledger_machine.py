"""State machines over the ledger on both databases, in step with the reference ledger."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.orm import Session

from accounting.curve import price
from accounting.mechanism import Mechanism
from kit.db import Database
from privacy_gateway.verify import verify
from tests.accounting.support import NOW, balance, charge, export, open_population, reserve, settle
from tests.reference import traffic
from tests.reference.audit import audit
from tests.reference.pair import Pair

# Of a thousand people; the last two of any number, which the exact filter adds up too.
PRICES = [*traffic.prices(), *(price(Mechanism("gaussian", noise)) for noise in (2.0, 40.0))]
RESEARCHERS = ("usr_ada", "usr_bob")
SIZES = (30, 60)

# Two of a thousand people, by weights and by the exact filter of Gaussians; one of a hundred in
# blocks.
populations = st.sampled_from("abc")
blocks = st.sampled_from(["north", "north", "south", "west"])
projects = st.sampled_from([None, "prj_x", "prj_y"])
researchers = st.sampled_from(RESEARCHERS)
prices = st.sampled_from(range(len(PRICES)))
minutes = st.integers(-60, 60)


class LedgerMachine(RuleBasedStateMachine):
    """Arbitrary interleavings of all verbs, right and wrong ones, over three budgets."""

    database: ClassVar[Database]
    rounds_charged: ClassVar[int] = 0
    runs: ClassVar[int] = 0
    told: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.jobs: list[str] = []
        # Entries cannot be removed, so each run has budgets and jobs of its own.
        type(self).runs += 1
        self.pair.told = self.told
        self.run = self.runs

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction of its own for each step, as a request has."""
        with self.database.unit_of_work() as session:
            yield session

    @initialize(epsilon=st.sampled_from([0.5, 2.0, 8.0]), exact=st.booleans())
    def start(self, epsilon: float, exact: bool) -> None:
        with self.session() as session:
            self.pair.open(session, self.population("a"), epsilon)
            self.pair.open(session, self.population("b"), 3.0, 1e-5, exact=exact)
            parted = self.population("c")
            self.pair.open(session, parted, epsilon, 1e-5, clients=100)
            self.pair.open_block(session, parted, "north", 30)
            self.pair.enrol(session, parted, "north", set(range(30)))

    def population(self, which: str) -> str:
        """One of this run's budgets."""
        return f"pop_{self.run}_{which}"

    def new_job(self) -> str:
        """A name nobody has used."""
        self.jobs.append(f"job_{self.run}_{len(self.jobs)}")
        return self.jobs[-1]

    def job(self, index: int) -> str:
        """A job that was admitted, mostly; sometimes a refused one, or one that nobody knows."""
        known = list(self.pair.home) if index % 8 else self.jobs
        return known[index % len(known)] if known else "job_unknown"

    @rule(
        where=populations,
        who=researchers,
        which=prices,
        rounds=st.one_of(st.integers(1, 60), st.integers(1, 20_000)),
        lease=minutes,
        project=projects,
    )
    def reserve(
        self, where: str, who: str, which: int, rounds: int, lease: int, project: str | None
    ) -> None:
        job = self.new_job()
        with self.session() as session:
            until = NOW + timedelta(minutes=lease)
            self.pair.reserve(
                session,
                job,
                self.population(where),
                who,
                PRICES[which],
                rounds,
                until,
                project=project,
            )

    @rule(where=populations, name=blocks, size=st.sampled_from(SIZES))
    def open_block(self, where: str, name: str, size: int) -> None:
        with self.session() as session:
            self.pair.open_block(session, self.population(where), name, size)

    @rule(
        where=populations,
        name=blocks,
        first=st.sampled_from([0, 25, 30, 60]),
        size=st.sampled_from(SIZES),
    )
    def enrol(self, where: str, name: str, first: int, size: int) -> None:
        people = {(first + step) % 100 for step in range(size)}
        with self.session() as session:
            self.pair.enrol(session, self.population(where), name, people)

    @rule(
        name=blocks,
        noise=st.sampled_from([3.0, 10.0]),
        rounds=st.integers(1, 60),
        who=researchers,
        project=projects,
    )
    def reserve_in_a_block(
        self, name: str, noise: float, rounds: int, who: str, project: str | None
    ) -> None:
        """For the people of a block somebody is enrolled in, or of one that nobody opened."""
        where = self.population("c")
        block = self.pair.populations[where].blocks.get(name)
        if block is not None and not block.people:
            return
        clients = block.clients if block is not None else 50
        cost = price(Mechanism("poisson_gaussian", noise, clients, clients // 5))
        with self.session() as session:
            self.pair.reserve(
                session, self.new_job(), where, who, cost, rounds, NOW, project=project, block=name
            )

    @rule(index=st.integers(0, 50), rounds=st.integers(1, 60))
    def reserve_twice(self, index: int, rounds: int) -> None:
        job = self.job(index)
        if job in self.pair.home:
            with self.session() as session:
                self.pair.reserve(
                    session, job, self.pair.home[job], "usr_ada", PRICES[-1], rounds, NOW
                )

    @rule(
        index=st.integers(0, 50),
        first=st.integers(1, 40),
        rounds=st.integers(1, 40),
        attempt=st.integers(1, 3),
        fence=st.integers(0, 3),
    )
    def charge(self, index: int, first: int, rounds: int, attempt: int, fence: int) -> None:
        with self.session() as session:
            self.pair.charge(session, self.job(index), first, rounds, attempt, fence)

    @rule(index=st.integers(0, 50))
    def settle(self, index: int) -> None:
        with self.session() as session:
            self.pair.settle(session, self.job(index))

    @rule(index=st.integers(0, 50))
    def void(self, index: int) -> None:
        with self.session() as session:
            self.pair.void(session, self.job(index))

    @rule(index=st.integers(0, 50), at=minutes)
    def expire(self, index: int, at: int) -> None:
        with self.session() as session:
            self.pair.expire(session, self.job(index), NOW + timedelta(minutes=at))

    @rule(index=st.integers(0, 50), lease=minutes)
    def renew(self, index: int, lease: int) -> None:
        with self.session() as session:
            self.pair.renew(session, self.job(index), NOW + timedelta(minutes=lease))

    @rule(where=populations, milli=st.integers(1, 2000), reason=st.sampled_from(["more", " "]))
    def grant(self, where: str, milli: int, reason: str) -> None:
        with self.session() as session:
            self.pair.grant(session, self.population(where), milli, reason)

    @rule(where=populations, value=st.booleans())
    def freeze(self, where: str, value: bool) -> None:
        with self.session() as session:
            self.pair.set_frozen(session, self.population(where), value)

    @rule(where=populations, who=researchers, milli=st.integers(500, 5000))
    def set_quota(self, where: str, who: str, milli: int) -> None:
        with self.session() as session:
            self.pair.set_quota(session, self.population(where), who, milli)

    @rule(
        where=populations, project=st.sampled_from(["prj_x", "prj_y"]), milli=st.integers(500, 5000)
    )
    def set_project_quota(self, where: str, project: str, milli: int) -> None:
        with self.session() as session:
            self.pair.set_quota(session, self.population(where), project, milli, "project")

    @rule(where=populations, who=researchers, note=st.booleans())
    def record(self, where: str, who: str, note: bool) -> None:
        with self.session() as session:
            if note:
                self.pair.note(session, self.population(where))
            else:
                self.pair.deny(session, self.population(where), who)

    @rule(where=populations, which=prices, rounds=st.integers(1, 300))
    def reserve_and_void_is_identity(self, where: str, which: int, rounds: int) -> None:
        where = self.population(where)
        one = self.pair.populations[where]
        before = one.charged, one.reserved
        job = self.new_job()
        with self.session() as session:
            self.pair.reserve(session, job, where, "usr_bob", PRICES[which], rounds, NOW)
            self.pair.void(session, job)
        now = balance(self.database, where)
        assert (now.charged, now.reserved) == before

    @precondition(lambda self: self.pair.populations)
    @invariant()
    def both_say_the_same(self) -> None:
        with self.database.read() as session:
            self.pair.compare(session)

    def teardown(self) -> None:
        for one in self.pair.populations.values():
            type(self).rounds_charged += sum(job.charged for job in one.jobs.values())


def _examples() -> settings:
    few = os.environ.get("HYPOTHESIS_PROFILE") == "mutants"
    return settings(
        max_examples=8 if few else 25,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def test_the_ledger_is_its_reference(database: Database) -> None:
    machine: Any = type("Machine", (LedgerMachine,), {"database": database, "told": Counter()})
    run_state_machine_as_test(machine, settings=_examples())
    found, report = audit(database), verify(export(database))
    assert report.ok, report.problems
    charged = sum(one.rounds_charged for one in report.populations.values())
    assert charged == found.charged_rounds() == machine.rounds_charged
    print(machine.told)


def test_the_order_of_settled_jobs_does_not_matter(tmp_path: Path) -> None:
    balances = []
    for name, order in (("a", [0, 1, 2]), ("b", [2, 0, 1]), ("c", [1, 2, 0])):
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
    assert balances[0] == balances[1] == balances[2]
