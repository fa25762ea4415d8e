"""A long past for a market: one researcher's jobs, their keys, and their sealed entries."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from accounting import ledger
from accounting.book import Book
from benchmarks import market as markets
from jobs import admission, judgement, situation
from jobs.tables import Idempotency, Job
from kit import prepared
from kit.ids import new_id
from privacy_gateway.schemas import JobRequest
from tests.support.market import Market

CHUNK = 5_000
_JOB = Job.__table__  # type: ignore[attr-defined]
_KEY = Idempotency.__table__  # type: ignore[attr-defined]


def age(market: Market, count: int, asked: JobRequest | None = None) -> None:
    """Admit one job of researcher 1, and `count - 1` more like it without their policy."""
    me, services = markets.researcher(1), market.services
    asked = asked or markets.cheap(market.dataset_id)
    first = admission.submit(services, me, asked, None).job
    with market.database.read() as session:
        query = sa.select(_JOB).where(_JOB.c.id == first.id)
        job: dict[str, Any] = dict(session.execute(query).mappings().one())
        seen = situation.read(session, me, market.dataset_id)
    proposal = judgement.propose(services.settings, seen, asked)
    facts = {"actor": me.id, "decision_id": job["decision_id"]}
    for start in range(job["ordinal"] + 1, count + 1, CHUNK):
        ordinals = range(start, min(start + CHUNK, count + 1))
        rows = [job | {"id": new_id("job"), "ordinal": ordinal} for ordinal in ordinals]
        with market.database.unit_of_work() as session:
            book = Book(ledger.lock(session, [market.population_id]))
            people = [(market.population_id, me.id)]
            (found,) = prepared.ask(session, situation.asking_pasts(session, people))
            past = situation.pasts({market.population_id: seen.balance}, people, found)
            book.know(each.share for each in past.values())
            for row in rows:
                book.reserve(
                    market.population_id,
                    job_id=row["id"],
                    researcher_id=me.id,
                    price=proposal.price,
                    rounds=proposal.plan.charge_units,
                    facts=facts,
                    now=market.clock(),
                    lease_expires_at=market.clock() + timedelta(hours=1),
                )
            book.write(session)
            session.connection().execute(sa.insert(_JOB), rows)
            session.connection().execute(sa.insert(_KEY), [_key(row) for row in rows])


def _key(job: dict[str, Any]) -> dict[str, Any]:
    """The row of the key a job was asked for under."""
    return {
        "principal_id": job["researcher_id"],
        "key": f"key of {job['id']}",
        "request_hash": job["request_digest"],
        "job_id": job["id"],
        "created_at": job["created_at"],
    }
