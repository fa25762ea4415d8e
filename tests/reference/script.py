"""A seeded script of requests for the ledger and its reference in step, as long as one likes."""

from __future__ import annotations

import random
from datetime import timedelta

from sqlalchemy.orm import Session

from accounting.curve import price
from accounting.mechanism import Mechanism
from tests.accounting.support import NOW
from tests.reference import traffic
from tests.reference.pair import Pair

# How many of a thousand requests are of which verb.
VERBS = {
    "reserve": 330,
    "charge": 400,
    "settle": 110,
    "void": 30,
    "expire": 40,
    "renew": 20,
    "grant": 10,
    "freeze": 10,
    "quota": 10,
    "record": 40,
}


class Script:
    """Draws the next request; remembers jobs that may still be open, and some that are not."""

    def __init__(self, populations: int, seed: int) -> None:
        self.pair = Pair()
        self.random = random.Random(seed)
        self.names = [f"pop_{number}" for number in range(populations)]
        self.prices = [*traffic.prices(), price(Mechanism("gaussian", 30.0))]
        self.jobs: list[str] = []
        self.made = 0

    def open(self, session: Session) -> None:
        """Budgets small and large, every fifth for unsampled Gaussians only."""
        for number, name in enumerate(self.names):
            self.pair.open(session, name, (3.0, 40.0, 200.0)[number % 3], exact=number % 5 == 4)

    def step(self, session: Session) -> None:
        """One request to both."""
        (verb,) = self.random.choices(list(VERBS), list(VERBS.values()))
        getattr(self, f"_{verb}")(session)

    def _reserve(self, session: Session) -> None:
        job, where = f"job_{self.made}", self.random.choice(self.names)
        if self.made and self.random.random() < 0.02:
            job = self._job()
            where = self.pair.home.get(job, where)
        else:
            self.made += 1
        cost, rounds = self.random.choice(self.prices), self.random.choice((1, 3, 10, 30, 60))
        until = NOW + timedelta(minutes=self.random.randrange(-30, 30))
        who = self.random.choice(traffic.RESEARCHERS)
        project = self.random.choice((None, None, "prj_x", "prj_y"))
        answer = self.pair.reserve(session, job, where, who, cost, rounds, until, project=project)
        if answer.code is None:
            self.jobs.append(job)

    def _charge(self, session: Session) -> None:
        block = self.random.randrange(1, 60), self.random.randrange(1, 20)
        attempt, fence = self.random.randrange(1, 12), self.random.randrange(4)
        self.pair.charge(session, self._job(), *block, attempt, fence)

    def _settle(self, session: Session) -> None:
        self.pair.settle(session, self._ending())

    def _void(self, session: Session) -> None:
        self.pair.void(session, self._ending())

    def _expire(self, session: Session) -> None:
        now = NOW + timedelta(minutes=self.random.randrange(-30, 30))
        self.pair.expire(session, self._ending(), now)

    def _renew(self, session: Session) -> None:
        until = NOW + timedelta(minutes=self.random.randrange(-30, 30))
        self.pair.renew(session, self._job(), until)

    def _grant(self, session: Session) -> None:
        self.pair.grant(session, self.random.choice(self.names), self.random.randrange(1, 500))

    def _freeze(self, session: Session) -> None:
        """Thawed at once, most times: what is frozen does nothing."""
        where = self.random.choice(self.names)
        self.pair.set_frozen(session, where, True)
        for _ in range(self.random.randrange(3)):
            self._charge(session)
            self._reserve(session)
        self.pair.set_frozen(session, where, False)

    def _quota(self, session: Session) -> None:
        who, milli = self.random.choice(traffic.RESEARCHERS), self.random.randrange(500, 60_000)
        where = self.random.choice(self.names)
        if self.random.random() < 0.3:
            self.pair.set_quota(
                session, where, self.random.choice(("prj_x", "prj_y")), milli, "project"
            )
        else:
            self.pair.set_quota(session, where, who, milli)

    def _record(self, session: Session) -> None:
        where = self.random.choice(self.names)
        if self.random.random() < 0.5:
            self.pair.note(session, where)
        else:
            self.pair.deny(session, where, self.random.choice(traffic.RESEARCHERS))

    def _job(self) -> str:
        """One of the last jobs, seldom an older one; one nobody knows when there is none."""
        if not self.jobs:
            return "job_unknown"
        if self.random.random() < 0.95:
            return self.jobs[-1 - self.random.randrange(min(60, len(self.jobs)))]
        return self.random.choice(self.jobs)

    def _ending(self) -> str:
        """A job that is asked to end, and mostly not asked again."""
        job = self._job()
        if job in self.jobs[-60:] and self.random.random() < 0.8:
            self.jobs.remove(job)
        return job
