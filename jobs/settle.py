"""The writing part of admission, for one attempt or for a group of them: the same code.

Inside one transaction the group takes its keys, locks its budgets in id order, reads once what
could have moved, and then lets each attempt in the order of its coming find the facts that the
ones before it left: the filter, the quotas, the policy where it can see the difference. Everything
is stored at the end, one statement a table. An attempt that is refused or fails leaves nothing of
itself but its recorded refusal. Nothing is published here, and nothing here may commit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from accounting import blocks, posting, quotas, witness
from accounting.book import Book
from accounting.ledger import Balance, QuotaBalance
from jobs import judgement, keys, projects, situation, states
from jobs.attempt import Attempt, Denied, Outcome, Settled, facts_of, job_of, job_row
from jobs.judgement import Judgement
from jobs.keys import Mine
from jobs.services import Services
from jobs.situation import Past, Situation
from jobs.tables import Job, JobEvent, Outbox
from jobs.views import job_view
from kit import prepared
from kit.clock import micros
from kit.prepared import Asked, Rows
from policies import revisions
from privacy_gateway.errors import Refused

# A group that has held the budgets this long commits what it has; the rest is the next group.
MOST_SECONDS = 0.5

_JOBS = Rows(Job.__table__)  # type: ignore[attr-defined]
_EVENTS = Rows(JobEvent.__table__)  # type: ignore[attr-defined]
_HINTS = Rows(Outbox.__table__)  # type: ignore[attr-defined]


def settle(
    services: Services, session: Session, attempts: Sequence[Attempt]
) -> list[Settled | Exception]:
    """Admit or refuse attempts in their order; the caller commits.

    Args:
        services: the outside world.
        session: a writing transaction that has locked nothing.
        attempts: priced and judged, in the order of their coming.

    Returns:
        An answer, or the exception of an attempt that failed alone, for each of a prefix of the
        attempts, at least one; those left over were not touched.

    Raises:
        Refused: `unavailable` where the database has become an older one.
    """
    witness.refuse_older(session, services.settings.witness())
    now = services.clock()
    group = _Group(services, session, attempts, now)
    until = time.monotonic() + MOST_SECONDS
    answers: list[Settled | Exception] = []
    for attempt in attempts:
        if answers and time.monotonic() > until:
            break
        try:
            answers.append(group.one(attempt))
        except Exception as error:  # of this attempt alone; nothing of it is in the group
            answers.append(error)
    group.write()
    return answers


class _Group:
    """What one transaction has locked and read, and what its attempts have become so far."""

    def __init__(
        self, services: Services, session: Session, attempts: Iterable[Attempt], now: datetime
    ) -> None:
        self._admitted: dict[Mine, Attempt] = {}
        self._services, self._session, self._now = services, session, now
        people = {(each.population_id, each.principal.id) for each in attempts}
        # One batch, in this order: keys before budgets, and what could have moved after the lock.
        self._keys, balances, self._standing, pasts = prepared.ask(
            session,
            keys.taking(attempts, now),
            posting.locking({population_id for population_id, _ in people}),
            situation.standing({each.request.dataset for each in attempts}),
            situation.asking_pasts(session, people),
        )
        self._book = Book(balances)
        for population_id, balance in balances.items():
            if balance.blocks:
                self._book.know_blocks(population_id, blocks.blocks(session, population_id))
        self._pasts = situation.pasts(balances, people, pasts)
        self._book.know(past.share for past in self._pasts.values())
        self._book.know(_project_shares(session, balances, attempts))
        self._views: dict[Mine, Outcome] = {}
        self._decisions: list[dict[str, Any]] = []
        self._jobs: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self._hints: list[dict[str, Any]] = []

    def one(self, attempt: Attempt) -> Settled:
        """Settle the next attempt in memory.

        Raises:
            Refused: `idempotency_mismatch`, or what pricing anew or the ledger said.
        """
        known = self._known(attempt)
        if known is not None:
            return known
        judged = attempt.first
        if judged.accepted:
            judged = self._still(attempt)
        decision = revisions.decision_row(
            judged.decision,
            job_id=attempt.job_id,
            subject_id=attempt.principal.id,
            now=self._now,
            dataset_id=attempt.request.dataset,
        )
        if judged.accepted:
            return self._admit(attempt, judged, decision)
        self._deny(attempt, judged, decision)
        return Denied(judged, decision["id"])

    def write(self) -> None:
        """Store everything the attempts became."""
        prepared.ask(
            self._session,
            keys.settling(self._keys, self._admitted, self._now),
            _stored((revisions.RECORD, self._decisions)),
            *self._book.writing(),
            _stored((_JOBS, self._jobs), (_EVENTS, self._events), (_HINTS, self._hints)),
        )

    def _known(self, attempt: Attempt) -> Outcome | None:
        """The job that the attempt's key stands for, made by this group or before it."""
        if attempt.key is None:
            return None
        mine = (attempt.principal.id, attempt.key)
        if mine in self._admitted:
            first = self._admitted[mine]
            keys.refuse_other_body(
                attempt.key, first.request_hash, attempt.request_hash, first.job_id
            )
            return replace(self._views[mine], replayed=True)
        if mine in self._keys:
            return None
        known = keys.known(self._session, mine, attempt.request_hash)
        if known is None:
            raise Refused("conflict", "this Idempotency-Key is in use just now; try again")
        return known

    def _still(self, attempt: Attempt) -> Judgement:
        """The judgement if nothing it was made on has moved, else a new one; the lock is held."""
        fresh = self._situation(attempt)
        if fresh.versions == attempt.first.situation.versions:
            return attempt.first
        return judgement.again(
            self._services,
            attempt.principal,
            fresh,
            attempt.first,
            request_id=attempt.job_id,
            now=self._now,
        )

    def _situation(self, attempt: Attempt) -> Situation:
        """The facts that the attempts before this one left."""
        seen = attempt.first.situation
        dataset, revision = seen.dataset, seen.revision
        if self._standing.get(dataset.id) != (dataset.frozen, revision.id):
            project = attempt.request.project
            there = situation.read(self._session, attempt.principal, dataset.id, project=project)
            dataset, revision = there.dataset, there.revision
        past = self._pasts[attempt.population_id, attempt.principal.id]
        balance = self._book.balance(attempt.population_id)
        target = self._book.target(attempt.population_id, situation.block_of(dataset))
        return situation.situation_of(
            dataset, revision, target.seen(balance), past, self._project(attempt)
        )

    def _project(self, attempt: Attempt) -> QuotaBalance | None:
        """What the attempt's project has spent by now; only a member may add to it."""
        project = attempt.request.project
        if project is None:
            return None
        projects.require_member(self._session, attempt.principal, project)
        return self._book.share(attempt.population_id, project, "project")

    def _admit(self, attempt: Attempt, judged: Judgement, decision: dict[str, Any]) -> Outcome:
        """Reserve, and note decision, job, events and hint."""
        whose = (attempt.population_id, attempt.principal.id)
        lasting = timedelta(seconds=self._services.settings.reservation_seconds)
        ordinal = self._pasts[whose].ordinal + 1
        row = job_row(attempt, judged, decision, ordinal, self._now)
        events, hints = states.started(row, judged.decision.verdict.approvals, now=self._now)
        outcome = Outcome(job_view(self._session, job_of(row)), replayed=False)
        self._book.reserve(
            attempt.population_id,
            job_id=attempt.job_id,
            researcher_id=attempt.principal.id,
            price=judged.proposal.price,
            rounds=judged.proposal.plan.charge_units,
            facts=facts_of(attempt, judged, decision),
            now=self._now,
            lease_expires_at=self._now + lasting,
            project=attempt.request.project,
            block=situation.block_of(judged.situation.dataset),
        )
        # Nothing below can fail: from here on the attempt is part of the group.
        self._pasts[whose] = Past(self._book.share(*whose), ordinal, micros(self._now))
        self._decisions.append(decision)
        self._jobs.append(row)
        self._events += events
        self._hints += hints
        if attempt.key is not None:
            mine = (attempt.principal.id, attempt.key)
            self._admitted[mine], self._views[mine] = attempt, outcome
        return outcome

    def _deny(self, attempt: Attempt, judged: Judgement, decision: dict[str, Any]) -> None:
        """The refusal as a ledger entry without any cost."""
        self._book.deny(
            attempt.population_id,
            job_id=attempt.job_id,
            researcher_id=attempt.principal.id,
            code=judged.code or "policy_error",
            facts=facts_of(attempt, judged, decision),
            now=self._now,
            price=judged.proposal.price,
            rounds=judged.proposal.plan.charge_units,
        )
        self._decisions.append(decision)


def _stored(*tables: tuple[Rows, list[dict[str, Any]]]) -> Asked[None]:
    """Rows of some tables, where there are any."""
    return prepared.nothing([(table, rows) for table, rows in tables if rows])


def _project_shares(
    session: Session, balances: Mapping[str, Balance], attempts: Iterable[Attempt]
) -> Iterator[QuotaBalance]:
    """What the projects of a group have spent, read under the lock."""
    named = {(each.population_id, each.request.project) for each in attempts}
    for population_id, project in sorted((a, b) for a, b in named if b is not None):
        delta = balances[population_id].terms.delta
        yield quotas.quota(session, population_id, project, kind="project", delta=delta)
