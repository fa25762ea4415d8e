"""The state diagram, cancelling, expiry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobs import admission, approvals, blocks, events, lifecycle, reaper, rounds, settlement, states
from jobs.principal import Principal
from jobs.tables import FINAL_STATES, STATES, Job, JobEvent
from kit.clock import utc_now
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway.errors import Refused
from privacy_gateway.views import Approval
from tests.support import market as support
from tests.support.market import OWNER, RESEARCHER, Market


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with support.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return support.open_market(database, engine, tmp_path)


def submit(market: Market, rounds: int = 20) -> str:
    request = support.request(market.dataset_id, rounds=rounds)
    return admission.submit(market.services, RESEARCHER, request, None).job.id


def status(market: Market, job_id: str) -> str:
    with market.database.read() as session:
        return session.get_one(Job, job_id).status


def claim(market: Market, job_id: str) -> rounds.Claim:
    with market.database.unit_of_work() as session:
        held = rounds.claim(session, job_id, worker="w", lease_seconds=60, now=market.clock())
    assert held is not None
    return held


def give_back(market: Market, job_id: str) -> None:
    with market.database.unit_of_work() as session:
        states.enqueue(session, states.locked(session, job_id), now=market.clock())


def test_every_state_is_in_the_diagram_and_final_ones_are_ends() -> None:
    assert set(states.TRANSITIONS) == set(STATES)
    for state, following in states.TRANSITIONS.items():
        assert (following == frozenset()) == (state in FINAL_STATES)
        assert following <= set(STATES)


def test_every_state_can_be_reached_and_left() -> None:
    reached = {"submitted"}
    while more := set().union(*(states.TRANSITIONS[state] for state in reached)) - reached:
        reached |= more
    assert reached == set(STATES)


@pytest.mark.parametrize("to", ["completed", "failed", "submitted", "running", "awaiting_approval"])
def test_a_step_outside_the_diagram_changes_nothing(market: Market, to: str) -> None:
    job_id = submit(market)
    with pytest.raises(Refused, match="conflict"), market.database.unit_of_work() as session:
        states.move(session, states.locked(session, job_id), to, now=market.clock())
    assert status(market, job_id) == "queued"


def test_cancel_of_a_waiting_job_gives_everything_back(market: Market) -> None:
    before = market.balance()
    job_id = submit(market)
    view = lifecycle.cancel(market.services, RESEARCHER, job_id)
    assert view.status == "cancelled"
    after = market.balance()
    assert (after.charged, after.reserved) == (before.charged, before.reserved)
    with market.database.read() as session:
        receipt = settlement.receipt(session, RESEARCHER, job_id)
    assert receipt["guarantee"]["epsilon"] == 0
    assert "nothing was charged" in receipt["statement"]


def test_cancel_of_a_running_job_is_a_wish(market: Market) -> None:
    job_id = submit(market)
    claim(market, job_id)
    assert lifecycle.cancel(market.services, OWNER, job_id).status == "running"
    assert lifecycle.cancel(market.services, OWNER, job_id).status == "running"
    with market.database.read() as session:
        kinds = [event.kind for event in events.since(session, job_id)]
    assert kinds.count("cancel_requested") == 1


def test_cancel_of_an_ended_job_is_a_conflict(market: Market) -> None:
    job_id = submit(market)
    lifecycle.cancel(market.services, RESEARCHER, job_id)
    with pytest.raises(Refused, match="conflict"):
        lifecycle.cancel(market.services, RESEARCHER, job_id)


@pytest.mark.parametrize(
    "stranger",
    [
        Principal("usr_eve", "eve@example.org", "researcher"),
        Principal("usr_other", "other@example.org", "owner"),
        Principal("usr_aud", "aud@example.org", "auditor"),
    ],
)
def test_strangers_cannot_cancel_nor_learn_that_the_job_exists(
    market: Market, stranger: Principal
) -> None:
    job_id = submit(market)
    with pytest.raises(Refused) as known:
        lifecycle.cancel(market.services, stranger, job_id)
    with pytest.raises(Refused) as unknown:
        lifecycle.cancel(market.services, stranger, "job_nothing")
    assert known.value.code == unknown.value.code == "not_found"
    assert status(market, job_id) == "queued"


def test_a_job_that_waits_too_long_expires_and_holds_nothing(market: Market) -> None:
    job_id = submit(market)
    assert reaper.expire(market.services) == []
    market.clock.advance(seconds=market.services.settings.reservation_seconds + 1)
    assert reaper.expire(market.services) == [job_id]
    assert status(market, job_id) == "expired"
    assert set(market.balance().reserved) == {0}
    assert reaper.expire(market.services) == []


def test_one_machine_whose_clock_runs_ahead_ends_nobodys_job(market: Market) -> None:
    market.clock.moment = utc_now()
    job_id = submit(market)
    market.clock.advance(days=30)
    assert reaper.expire(market.services) == []
    assert status(market, job_id) == "queued"


def test_a_running_job_does_not_expire(market: Market) -> None:
    job_id = submit(market)
    claim(market, job_id)
    market.clock.advance(seconds=market.services.settings.reservation_seconds + 1)
    assert reaper.expire(market.services) == []
    assert status(market, job_id) == "running"


def test_a_job_that_comes_back_waits_since_it_last_got_on(market: Market) -> None:
    """A failed attempt that ended an old job at once would give a refund for a record."""
    job_id = submit(market)
    held = claim(market, job_id)
    long = market.services.settings.reservation_seconds
    market.clock.advance(seconds=long + 1)
    block = blocks.next_block(market.services, held)
    assert block is not None
    with market.database.unit_of_work() as session:
        rounds.release(session, held, reason=events.FAILED, now=market.clock())
    assert reaper.expire(market.services) == []
    claim(market, job_id)
    give_back(market, job_id)
    market.clock.advance(seconds=long)
    assert reaper.expire(market.services) == []
    market.clock.advance(seconds=1)
    assert reaper.expire(market.services) == [job_id]


def test_a_job_that_is_only_taken_and_given_back_expires(market: Market) -> None:
    """A policy engine that is down for good must not keep a reservation for ever."""
    job_id = submit(market)
    market.clock.advance(seconds=market.services.settings.reservation_seconds + 1)
    claim(market, job_id)
    give_back(market, job_id)
    assert reaper.expire(market.services) == [job_id]
    assert set(market.balance().reserved) == {0}


def test_approvals_that_come_too_late_expire_the_job(market: Market) -> None:
    market.activate(support.policy(approved=10))
    job_id = submit(market)
    assert status(market, job_id) == "awaiting_approval"
    market.clock.advance(hours=25)
    assert reaper.expire(market.services) == [job_id]
    assert set(market.balance().reserved) == {0}


def test_an_approved_job_runs_on_the_approval_it_got(market: Market) -> None:
    market.activate(support.policy(approved=10))
    job_id = submit(market)
    approvals.decide(market.services, OWNER, job_id, Approval(decision="approve"))
    assert status(market, job_id) == "queued"
    claim(market, job_id)


def test_events_count_without_gaps(market: Market) -> None:
    job_id = submit(market)
    claim(market, job_id)
    with market.database.read() as session:
        query = sa.select(JobEvent.__table__.c.seq).where(JobEvent.__table__.c.job_id == job_id)
        seqs = sorted(session.execute(query).scalars())
        assert seqs == list(range(1, len(seqs) + 1))
        assert [event.seq for event in events.since(session, job_id, after=2)] == seqs[2:]
