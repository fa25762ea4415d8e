"""The ledger's verbs on both databases: what they take, what they give back, what they refuse."""

from __future__ import annotations

from datetime import timedelta

import pytest

from accounting import ledger
from accounting.curve import price
from accounting.mechanism import Mechanism
from kit.db import Database
from privacy_gateway.errors import Refused
from privacy_gateway.verify import verify
from tests.accounting.support import (
    FACTS,
    NOW,
    SOON,
    ZERO,
    balance,
    charge,
    code_of,
    export,
    job_price,
    refusal_of,
    reserve,
    settle,
    times,
)


def test_reserve_charge_settle_move_the_balance_exactly(opened: Database) -> None:
    with opened.unit_of_work() as session:
        reserve(session, "job_1")
    assert balance(opened).reserved == times(100)
    with opened.unit_of_work() as session:
        assert charge(session, "job_1", 1, 5).rounds_charged == 5
    after = balance(opened)
    assert (after.charged, after.reserved) == (times(5), times(95))
    with opened.unit_of_work() as session:
        entry = settle(session, "job_1")
    assert entry is not None
    assert (entry.kind, entry.rounds) == ("void", 95)
    after = balance(opened)
    assert (after.charged, after.reserved) == (times(5), ZERO)
    assert after.head_seq == after.version == 4
    assert after.head_hash == entry.hash


def test_a_charge_never_takes_more_than_is_left(opened: Database) -> None:
    with opened.unit_of_work() as session:
        reserve(session, "job_1", rounds=7)
        assert charge(session, "job_1", 1, 5).rounds_charged == 5
        # The block was run again: a second attempt is a second charge.
        second = charge(session, "job_1", 1, 5, attempt=2)
        assert second.rounds_charged == 2
        assert charge(session, "job_1", 6, 5, attempt=2) == ledger.Charge(0, None)
    assert balance(opened).charged == times(7)


def test_a_round_is_charged_once_in_an_attempt(opened: Database) -> None:
    with opened.unit_of_work() as session:
        reserve(session, "job_1")
        charge(session, "job_1", 1, 5)
    for first, rounds in ((1, 5), (3, 1), (5, 5)):
        with opened.unit_of_work() as session:
            assert code_of(lambda s=session, f=first, r=rounds: charge(s, "job_1", f, r)) == (
                "conflict"
            )
    assert balance(opened).charged == times(5)


def test_a_worker_that_lost_the_job_cannot_charge(opened: Database) -> None:
    with opened.unit_of_work() as session:
        reserve(session, "job_1")
        charge(session, "job_1", 1, 5, fence=3)
        assert code_of(lambda: charge(session, "job_1", 6, 5, fence=2)) == "conflict"
        charge(session, "job_1", 6, 5, fence=3)


def test_a_settled_job_charges_nothing_and_settles_once(opened: Database) -> None:
    with opened.unit_of_work() as session:
        reserve(session, "job_1")
        assert settle(session, "job_1") is not None
        assert charge(session, "job_1") == ledger.Charge(0, None)
        assert settle(session, "job_1") is None
        assert code_of(lambda: reserve(session, "job_1")) == "conflict"
    after = balance(opened)
    assert (after.charged, after.reserved) == (ZERO, ZERO)


def test_a_job_without_reservation_is_not_found(opened: Database) -> None:
    with opened.unit_of_work() as session:
        assert code_of(lambda: charge(session, "job_9")) == "not_found"
        assert code_of(lambda: settle(session, "job_9")) == "not_found"
        assert code_of(lambda: ledger.lock(session, ["pop_z"])) == "not_found"


def test_void_gives_everything_back_and_only_unstarted_jobs_are_void(opened: Database) -> None:
    before = balance(opened)
    with opened.unit_of_work() as session:
        reserve(session, "job_1")
        ledger.void(session, job_id="job_1", reason="cancelled", facts=FACTS, now=NOW)
        reserve(session, "job_2")
        charge(session, "job_2")
        act = lambda: ledger.void(session, job_id="job_2", reason="x", facts=FACTS, now=NOW)  # noqa: E731
        assert code_of(act) == "conflict"
        settle(session, "job_2")
    after = balance(opened)
    assert (before.charged, before.reserved) == (ZERO, after.reserved)


def test_only_a_lease_that_ran_out_expires(opened: Database) -> None:
    def expire(seconds: int) -> ledger.Entry | None:
        with opened.unit_of_work() as session:
            return ledger.expire(
                session, job_id="job_1", facts=FACTS, now=SOON + timedelta(seconds=seconds)
            )

    with opened.unit_of_work() as session:
        reserve(session, "job_1")
    assert code_of(lambda: expire(-1)) == "conflict"
    with opened.unit_of_work() as session:
        ledger.renew_lease(session, "job_1", SOON + timedelta(seconds=60))
    assert code_of(lambda: expire(1)) == "conflict"
    expired = expire(61)
    assert expired is not None
    assert expired.leaf["reason"] == "expired"
    assert expire(61) is None


def test_a_whole_mechanism_is_charged_at_once_without_refund(opened: Database) -> None:
    tree = price(Mechanism("tree_gaussian", 5.0, steps=1000))
    with opened.unit_of_work() as session:
        reserve(session, "job_1", rounds=2, cost=tree)
        assert charge(session, "job_1", 1, 1).rounds_charged == 2
        settled = settle(session, "job_1")
    assert settled is not None
    assert settled.rounds == 0
    assert balance(opened).charged == tree.total(2)


def test_the_budget_ends_and_says_how_much_is_left(opened: Database) -> None:
    with opened.unit_of_work() as session:
        for number in range(107):
            reserve(session, f"job_{number}")
    with opened.unit_of_work() as session, pytest.raises(Refused) as refusal:
        reserve(session, "job_107")
    assert refusal.value.code == "budget_exceeded"
    assert refusal.value.facts["epsilon_spent"] < 8.0 < refusal.value.facts["epsilon_after"]
    with opened.unit_of_work() as session:
        ledger.grant(
            session, population_id="pop_a", epsilon=1.0, reason="study", actor_id="u", now=NOW
        )
        reserve(session, "job_107")
    assert balance(opened).epsilon == 9.0
    assert verify(export(opened)).ok


def test_a_grant_needs_a_reason(opened: Database) -> None:
    with opened.unit_of_work() as session, pytest.raises(Refused) as refusal:
        ledger.grant(session, population_id="pop_a", epsilon=1.0, reason=" ", actor_id="u", now=NOW)
    assert refusal.value.errors[0].field == "reason"
    assert balance(opened).head_seq == 1


def test_frozen_means_no_reservation_and_no_charge(opened: Database) -> None:
    owner = {"population_id": "pop_a", "actor_id": "usr_owner", "now": NOW}
    with opened.unit_of_work() as session:
        reserve(session, "job_1")
        ledger.freeze(session, reason="incident", **owner)
        assert code_of(lambda: ledger.freeze(session, reason="again", **owner)) == "conflict"
    with opened.unit_of_work() as session:
        assert code_of(lambda: charge(session, "job_1")) == "frozen"
        assert code_of(lambda: reserve(session, "job_2")) == "frozen"
    with opened.unit_of_work() as session:
        ledger.unfreeze(session, reason="over", **owner)
        assert charge(session, "job_1").rounds_charged == 5
    assert verify(export(opened)).ok


def test_a_quota_is_a_share_and_knows_the_past(opened: Database) -> None:
    with opened.unit_of_work() as session:
        reserve(session, "job_1", researcher_id="usr_a")
        charge(session, "job_1", 1, 100)
        ledger.set_quota(
            session,
            population_id="pop_a",
            researcher_id="usr_a",
            epsilon=1.0,
            actor_id="usr_owner",
            now=NOW,
        )
    with opened.unit_of_work() as session:
        assert code_of(lambda: reserve(session, "job_2", researcher_id="usr_a")) == "quota_exceeded"
    with opened.unit_of_work() as session:
        reserve(session, "job_3", researcher_id="usr_b")
        shares = {share.researcher_id: share for share in ledger.quotas.quotas(session, "pop_a")}
    assert shares["usr_a"].epsilon == 1.0
    assert shares["usr_a"].charged == times(100)
    assert (shares["usr_a"].epsilon_spent or 0) > 1.0
    assert shares["usr_b"].epsilon is shares["usr_b"].epsilon_spent is None
    assert verify(export(opened)).ok


def test_a_denial_and_a_note_change_no_balance(opened: Database) -> None:
    before = balance(opened)
    with opened.unit_of_work() as session:
        ledger.deny(
            session,
            population_id="pop_a",
            job_id="job_1",
            researcher_id="usr_r",
            code="policy_denied",
            facts={"rules": ["price_cap"]},
            now=NOW,
            price=job_price(),
            rounds=10,
        )
        ledger.note(
            session, population_id="pop_a", reason="audit", actor_id="u", facts={"x": 1.5}, now=NOW
        )
    after = balance(opened)
    assert (after.charged, after.reserved, after.head_seq) == (before.charged, before.reserved, 3)
    with opened.read() as session:
        written = ledger.entries(session, population="pop_a", after=0)
    assert [(entry.kind, entry.actor_id) for entry in written[1:]] == [
        ("deny", "usr_r"), ("note", "u"),
    ]  # fmt: skip
    assert verify(export(opened)).ok


def test_a_balance_that_moved_cannot_be_reserved_from(opened: Database) -> None:
    with opened.unit_of_work() as session:
        stale = ledger.lock(session, ["pop_a"])["pop_a"]
        reserve(session, "job_1")
    with opened.unit_of_work() as session:
        act = lambda: ledger.reserve(  # noqa: E731
            session,
            stale,
            job_id="job_2",
            researcher_id="usr_r",
            price=job_price(),
            rounds=1,
            facts=FACTS,
            now=NOW,
            lease_expires_at=SOON,
        )
        refusal = refusal_of(act)
        session.rollback()
    assert refusal is not None
    assert (refusal.code, refusal.facts) == ("conflict", {"population": "pop_a"})
    assert balance(opened).head_seq == 2


def test_a_rolled_back_reservation_leaves_no_trace(opened: Database) -> None:
    before = export(opened)
    with pytest.raises(ZeroDivisionError), opened.unit_of_work() as session:
        reserve(session, "job_1")
        raise ZeroDivisionError
    assert export(opened) == before
    with opened.read() as session:
        assert ledger.held(session, "job_1") is None
