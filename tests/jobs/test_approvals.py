"""Jobs that wait for people: who may agree, until when, and what becomes of the reservation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobs import admission, approvals, views
from jobs.principal import Principal
from jobs.tables import Outbox
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway.errors import Refused
from privacy_gateway.views import Approval
from tests.support import market as markets
from tests.support.market import OWNER, RESEARCHER, Market, request


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine() as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return markets.open_market(database, engine, tmp_path)


@pytest.fixture
def small_market(sqlite_database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    """For what cannot depend on the database."""
    return markets.open_market(sqlite_database, engine, tmp_path)


def submit(market: Market) -> admission.Outcome:
    return admission.submit(market.services, RESEARCHER, request(market.dataset_id), None)


def test_a_job_that_needs_people_waits_with_its_reservation(market: Market) -> None:
    market.activate(markets.policy(approved=10))
    outcome = submit(market)
    assert outcome.job.status == "awaiting_approval"
    assert len(market.entries("reserve")) == 1
    with market.database.read() as session:
        assert session.execute(sa.select(Outbox)).all() == []

    view = approvals.decide(
        market.services, OWNER, outcome.job.id, Approval(decision="approve", note="fine")
    )
    assert view.status == "queued"
    with market.database.read() as session:
        assert session.execute(sa.select(Outbox.job_id)).scalars().all() == [view.id]


def test_a_waiting_job_tells_whose_approval_is_missing_and_until_when(market: Market) -> None:
    market.activate(markets.policy(approved=10))
    job = submit(market).job
    assert [one.model_dump() for one in job.waiting_for] == [
        {"role": "owner", "count": 1, "missing": 1}
    ]
    assert job.approve_before is not None
    assert job.approve_before > job.created_at
    with market.database.read() as session:
        assert views.get_job(session, RESEARCHER, job.id) == job

    view = approvals.decide(market.services, OWNER, job.id, Approval(decision="approve"))

    assert (view.waiting_for, view.approve_before) == ([], None)


def test_a_rejected_job_gives_its_reservation_back(market: Market) -> None:
    market.activate(markets.policy(approved=10))
    before = market.balance()
    outcome = submit(market)
    no = Approval(decision="reject", note="ask for fewer rounds")
    view = approvals.decide(market.services, OWNER, outcome.job.id, no)
    assert view.status == "denied"
    assert market.balance().reserved == before.reserved


def test_a_researcher_reads_what_was_said_of_her_job_and_not_by_whom(market: Market) -> None:
    market.activate(markets.policy(approved=10))
    job_id = submit(market).job.id
    no = Approval(decision="reject", note="ask for fewer rounds")
    approvals.decide(market.services, OWNER, job_id, no)
    with market.database.read() as session:
        view = views.get_job(session, RESEARCHER, job_id)
    assert [one.model_dump() for one in view.decided] == [
        {"role": "owner", "decision": "reject", "note": "ask for fewer rounds"}
    ]
    assert OWNER.id not in view.model_dump_json()


def test_only_those_who_are_asked_approve_and_only_in_time(small_market: Market) -> None:
    market = small_market
    market.activate(markets.policy(approved=10))
    job_id = submit(market).job.id
    yes = Approval(decision="approve")
    stranger = Principal("usr_else", "else@example.org", "owner")
    for caller, code in ((stranger, "not_found"), (RESEARCHER, "not_found")):
        with pytest.raises(Refused) as caught:
            approvals.decide(market.services, caller, job_id, yes)
        assert caught.value.code == code
    market.clock.advance(hours=25)
    with pytest.raises(Refused) as caught:
        approvals.decide(market.services, OWNER, job_id, yes)
    assert caught.value.code == "conflict"
