"""Every refusal of the accountant names its field and facts; bounds are where they are said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import dp_accounting
import pytest
import sqlalchemy as sa

from accounting import filter as admission
from accounting import ledger, posting
from accounting.budget import Terms, check_delta, single_job_limits, terms_of
from accounting.curve import agree, pld_event, price, standalone_epsilon
from accounting.mechanism import Mechanism, banded_rounds, check_number, update_noise
from accounting.plan import TrainingPlan, check_clients
from accounting.tables import RESERVATION
from kit.clock import micros
from kit.db import Database
from privacy_gateway import rdp
from privacy_gateway.errors import Refused
from tests.accounting.support import (
    FACTS,
    NOW,
    SOON,
    balance,
    charge,
    job_price,
    open_population,
    refusal_of,
    reserve,
    settle,
)

NANO = rdp.NANO
POISSON = Mechanism("poisson_gaussian", 1.0, 1000, 10)
TERMS = terms_of(8 * NANO, 1e-6)


def refused(act: Callable[[], object]) -> Refused:
    refusal = refusal_of(act)
    assert refusal is not None, "nothing was refused"
    return refusal


FIELDS: list[tuple[str, Callable[[], object]]] = [
    ("epsilon", lambda: TERMS.raised(10**4 * NANO)),
    ("epsilon", lambda: TERMS.raised(-8 * NANO)),
    ("epsilon", lambda: terms_of(0, 1e-6)),
    ("epsilon", lambda: terms_of(10**4 * NANO + 1, 1e-6)),
    ("epsilon", lambda: terms_of(1, 1e-12)),
    ("delta", lambda: terms_of(NANO, 1e-13)),
    ("delta", lambda: single_job_limits(NANO, 2e-3)),
    ("delta", lambda: check_delta(2e-3, 10)),
    ("clients", lambda: check_delta(1e-6, 0)),
    ("weights", lambda: terms_of(NANO, 1e-6, (1,) * 15)),
    ("weights", lambda: terms_of(NANO, 1e-6, (0,) + (1,) * 15)),
    ("weights", lambda: terms_of(NANO, 1e-6, (rdp.FEMTO,) + (1,) * 15)),
    ("rounds", lambda: standalone_epsilon(POISSON, 0, 1e-6)),
    ("rounds", lambda: POISSON.composed_event(0)),
    ("rounds", lambda: job_price().total(-1)),
    ("rounds", lambda: job_price().total(10**6 + 1)),
    ("steps", lambda: banded_rounds(0, 1)),
    ("bands", lambda: banded_rounds(10, 11)),
    ("bands", lambda: banded_rounds(10, 0)),
    ("clip_count_noise", lambda: update_noise(1.0, None)),
    ("clip_count_noise", lambda: update_noise(1.0, 0.001)),
    ("noise_multiplier", lambda: update_noise(2.0, 1.0)),
    ("clip_count_noise", lambda: Mechanism("adaptive_clipping_gaussian", 1.0, 1000, 10)),
    ("noise_multiplier", lambda: Mechanism("gaussian", 0.0099)),
    ("mechanism", lambda: Mechanism("gaussian", 1.0, release="gift")),  # type: ignore[arg-type]
    ("clients", lambda: Mechanism("poisson_gaussian", 1.0, 0, 1)),
    ("clients_per_round", lambda: Mechanism("fixed_size_gaussian", 1.0, 10, 11)),
    ("steps", lambda: Mechanism("tree_gaussian", 1.0)),
    ("no_clients", lambda: check_clients("no_clients", 0, 10)),
    ("no_clients", lambda: check_clients("no_clients", 9, 10)),
]


@pytest.mark.parametrize(("field", "act"), FIELDS, ids=[field for field, _ in FIELDS])
def test_the_field_at_fault_is_named(field: str, act: Callable[[], object]) -> None:
    refusal = refused(act)
    assert refusal.code == "invalid_request"
    assert [error.field for error in refusal.errors] == [field]
    assert refusal.errors[0].message


def test_bounds_are_inclusive_where_they_say_so() -> None:
    assert TERMS.raised(9_992 * NANO).epsilon_nano == 10**4 * NANO
    assert TERMS.raised(1 - 8 * NANO).epsilon_nano == 1
    assert terms_of(10**4 * NANO, 1e-3).epsilon == 10**4
    assert check_number("x", 1, 1.0, 2.0) == check_number("x", 1.0, 1.0, 1.0) == 1.0
    assert banded_rounds(10, 10) == 1
    assert banded_rounds(10, 3) == 4
    assert update_noise(1.0, 1.0) == pytest.approx((1 - 0.25) ** -0.5)
    even = tuple([rdp.FEMTO // 16] * 16)
    assert terms_of(NANO * 8, 1e-6, even).weights == even


def test_a_bound_that_was_broken_is_a_fact() -> None:
    error = refused(lambda: update_noise(2.0, 1.0)).errors[0]
    assert (error.value, error.limit) == (2.0, 2.0)
    error = refused(lambda: POISSON.composed_event(10**6 + 1)).errors[0]
    assert (error.value, error.limit) == (10**6 + 1, 10**6)
    error = refused(lambda: POISSON.composed_event("1" * 100)).errors[0]  # type: ignore[arg-type]
    assert error.value == repr("1" * 100)[:80]
    error = refused(lambda: check_number("x", 3.5, 1.0, 2.0)).errors[0]
    assert (error.value, error.limit) == ("3.5", 2.0)


def test_a_term_that_no_budget_has_is_a_fact() -> None:
    error = refused(lambda: terms_of(NANO, 1e-6, filter="zcdp")).errors[0]  # type: ignore[arg-type]
    assert (error.field, error.value) == ("filter", "zcdp")
    error = refused(lambda: terms_of(NANO, 1e-6, (rdp.FEMTO,) + (1,) * 15)).errors[0]
    assert error.value == rdp.FEMTO + 15


def test_only_the_exact_filter_is_named_in_the_stored_terms() -> None:
    """Entries from before there was a choice keep their hashes."""
    assert set(TERMS.canonical()) == {"epsilon_nano", "delta", "weights", "orders"}
    assert terms_of(8 * NANO, 1e-6, filter="gdp").canonical()["filter"] == "gdp"


def test_a_grid_of_its_own_survives_a_raise() -> None:
    terms = terms_of(2 * NANO, 1e-5, orders=(10.0, 20.0))
    raised = terms.raised(NANO)
    assert raised == terms_of(3 * NANO, 1e-5, terms.weights, orders=(10.0, 20.0))
    assert isinstance(raised, Terms)


def test_a_margin_counts_active_orders_only() -> None:
    one, zero = (1,) * 16, admission.zero()
    assert admission.margin((0,) * 15 + (1,), zero, zero, one) == 0.0
    assert admission.margin((0,) * 16, zero, zero, zero) == -1.0
    assert admission.margin((4,) * 16, one, one, one) == 0.25
    for short in ((-1,) * 15, (-1,) * 17):
        with pytest.raises(ValueError, match="zip"):
            admission.margin(short, zero, zero, one)
        with pytest.raises(ValueError, match="zip"):
            admission.admits(short, zero, zero, one)
        with pytest.raises(ValueError, match="zip"):
            admission.room(short, zero, zero)
        with pytest.raises(ValueError, match="one length"):
            admission.add(short, zero)
        with pytest.raises(ValueError, match=r"zip|one length"):
            admission.subtract(short, zero)
    assert admission.room((4, -1, 0) + (3,) * 13, (1,) * 16, (1,) * 16) == (2, 0, 0) + (1,) * 13
    assert admission.epsilon_remaining_nano(TERMS, (10**15,) * 16) == 0


def test_sums_reach_the_last_integer_and_no_further() -> None:
    top = (rdp.INT64_MAX,) * 16
    assert admission.add(top, admission.zero()) == top
    assert admission.subtract(top, top) == admission.zero()
    assert refused(lambda: admission.add(top, (1,) + (0,) * 15)).code == "price_overflow"
    dear = replace(job_price(), per_round=(rdp.INT64_MAX // 2,) * 16)
    assert dear.total(2) == (rdp.INT64_MAX - 1,) * 16
    assert refused(lambda: dear.total(3)).code == "price_overflow"
    assert dear.total(0) == admission.zero()


def test_engines_agree_up_to_the_tolerance() -> None:
    assert agree(1.0, 1.0 + 0.9e-6)
    assert not agree(1.0, 1.0 + 1.2e-6)
    assert agree(0.0, 0.9e-13)
    assert not agree(0.0, 1.2e-13)
    assert agree(0.0, 0.9e-12, 10)
    assert not agree(0.0, 1.2e-12, 10)
    for broken in (float("nan"), float("inf")):
        assert not agree(broken, broken)
        assert not agree(1.0, broken)


def test_digits_lost_once_a_use_are_no_disagreement() -> None:
    cost = price(Mechanism("banded_gaussian", 1.0, 90_337, 1, steps=128, bands=1))
    assert min(cost.per_round) > 0


def test_a_tree_is_one_gaussian_of_its_depth_to_the_pld_accountant() -> None:
    event = pld_event(Mechanism("tree_gaussian", 6.0, steps=8), 3)
    assert event == dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(3.0), 3)
    assert pld_event(POISSON, 3) == POISSON.composed_event(3)


def test_the_engine_is_told_everything_by_its_name() -> None:
    assert TrainingPlan(1000, 100, 7, 2.0).engine_parameters() == {
        "rounds": 7,
        "clients": 1000,
        "clients_per_round": 100,
        "sampling": "poisson",
        "sampling_rate": 0.1,
        "denominator": 100,
        "noise_multiplier": 2.0,
        "clip_norm": 1.0,
        "clip_count_noise": None,
    }


def test_what_a_charge_is_refused_for(opened: Database) -> None:
    with opened.unit_of_work() as session:
        reserve(session, "job_1", rounds=10)
        good = {"round_first": 1, "rounds": 1, "attempt": 1, "fence": 2}
        base = {"job_id": "job_1", "facts": FACTS, "now": NOW}
        for field in ("round_first", "rounds", "attempt"):
            for wrong in (0, 10**6 + 1):
                refusal = refused(
                    lambda f=field, w=wrong: ledger.charge(session, **base, **(good | {f: w}))
                )
                assert [error.field for error in refusal.errors] == [field]
        assert ledger.charge(session, **base, **good).rounds_charged == 1
        stale = refused(lambda: ledger.charge(session, **base, **(good | {"fence": 1})))
        assert stale.facts == {"job": "job_1", "fence": 2}
        twice = refused(lambda: ledger.charge(session, **base, **good))
        assert twice.facts == {"job": "job_1", "attempt": 1, "seq": 3}
        again = refused(lambda: reserve(session, "job_1", rounds=10))
        assert (again.code, again.facts) == ("conflict", {"job": "job_1"})
        void = refused(lambda: ledger.void(session, reason="x", **base))
        assert (void.code, void.facts) == ("conflict", {"job": "job_1"})
        early = refused(lambda: ledger.expire(session, **base))
        assert (early.code, early.facts) == ("conflict", {"job": "job_1"})
        ledger.freeze(session, population_id="pop_a", reason="x", actor_id="u", now=NOW)
        for act in (lambda: charge(session, "job_1", 5, 1), lambda: reserve(session, "job_2")):
            frozen = refused(act)
            assert (frozen.code, frozen.facts) == ("frozen", {"population": "pop_a"})


def test_a_tree_that_is_paid_for_says_so_each_time(opened: Database) -> None:
    """Nothing is left to charge, and every later round is paid for all the same."""
    tree = Mechanism("tree_gaussian", 30.0, steps=10)
    with opened.unit_of_work() as session:
        reserve(session, "job_1", rounds=1, cost=price(tree))
        assert charge(session, "job_1", 1, 1).rounds_charged == 1
        assert charge(session, "job_1", 2, 1) == ledger.Charge(0, None, whole=True)


def test_a_lease_ends_at_its_last_moment(opened: Database) -> None:
    act = {"job_id": "job_1", "facts": FACTS}
    with opened.unit_of_work() as session:
        reserve(session, "job_1", rounds=10)
        just = SOON - timedelta(microseconds=1)
        assert refused(lambda: ledger.expire(session, now=just, **act)).code == "conflict"
        assert ledger.expire(session, now=SOON, **act) is not None


def test_a_renewal_moves_one_lease(opened: Database) -> None:
    later = SOON + timedelta(hours=1)
    with opened.unit_of_work() as session:
        reserve(session, "job_1", rounds=1)
        reserve(session, "job_2", rounds=1)
        ledger.renew_lease(session, "job_1", later)
        settle(session, "job_2")
        ledger.renew_lease(session, "job_2", later)
        first, second = (ledger.held(session, job) for job in ("job_1", "job_2"))
    assert first is not None
    assert second is not None
    assert (first.lease_expires_at, second.lease_expires_at) == (micros(later), micros(SOON))
    assert (first.job_id, first.population_id, first.project) == ("job_1", "pop_a", None)


def test_a_job_of_a_project_stays_one(opened: Database) -> None:
    cost = job_price()
    with opened.unit_of_work() as session:
        entries = [
            ledger.reserve(
                session,
                ledger.lock(session, ["pop_a"])["pop_a"],
                job_id="job_1",
                researcher_id="usr_r",
                price=cost,
                rounds=10,
                facts=FACTS,
                now=NOW,
                lease_expires_at=SOON,
                project="study",
            ),
            charge(session, "job_1", 1, 4).entry,
        ]
        held = ledger.held(session, "job_1")
        share = ledger.quota(session, "pop_a", "study", kind="project")
        assert (share.charged, share.reserved) == (cost.total(4), cost.total(6))
        entries.append(settle(session, "job_1"))
        share = ledger.quota(session, "pop_a", "study", kind="project")
        made = session.execute(sa.select(RESERVATION.c.created_at)).scalar_one()
    assert (share.charged, share.reserved) == (cost.total(4), admission.zero())
    assert held is not None
    assert held.project == "study"
    assert made == micros(NOW)
    for entry in entries:
        assert entry is not None
        assert entry.leaf["project"] == "study"
        assert entry.leaf["engine"].startswith("dp-accounting ")


def test_what_a_void_says(opened: Database) -> None:
    with opened.unit_of_work() as session:
        reserve(session, "job_1", rounds=10)
        entry = ledger.void(session, job_id="job_1", reason="cancelled", facts=FACTS, now=NOW)
    assert entry is not None
    said = {name: entry.leaf[name] for name in ("reason", "rounds", "rounds_charged", "actor")}
    assert said == {
        "reason": "cancelled", "rounds": 10, "rounds_charged": 0, "actor": "usr_worker",
    }  # fmt: skip


def test_a_leaf_holds_the_shortest_text_of_a_number_with_a_fraction(opened: Database) -> None:
    """Texts have one hash on every machine."""
    facts = FACTS | {"share": 0.1, "tried": [1e-9, 2, {"clip": 1.5}]}
    with opened.unit_of_work() as session:
        reserve(session, "job_1", rounds=10)
        entry = ledger.void(session, job_id="job_1", reason="x", facts=facts, now=NOW)
    assert entry is not None
    held = entry.leaf["facts"]
    assert (held["share"], held["tried"]) == ("0.1", ["1e-09", 2, {"clip": "1.5"}])


def test_entries_and_balances_read_back_are_those_that_were_written(database: Database) -> None:
    with database.unit_of_work() as session:
        first = open_population(session, "pop_b", owner_id="usr_x")
        second = open_population(session, "pop_a", owner_id="usr_y")
        written: list[Any] = [reserve(session, "job_1", rounds=9)]
        taken = charge(session, "job_1", 2, 3, attempt=4, fence=5)
        written += [taken.entry, settle(session, "job_1")]
    with database.read() as session:
        for entry in written:
            assert ledger.entry(session, entry.id) == entry
        assert posting.balance(session, "pop_b") == first
        assert posting.balances(session) == [posting.balance(session, "pop_a"), first]
        assert posting.balances(session, owner_id="usr_x") == [first]
        assert posting.balances(session, owner_id="usr_z") == []
        now = posting.balance(session, "pop_a")
    assert (
        replace(now, charged=second.charged, version=1, head_seq=1, head_hash=second.head_hash)
        == second
    )
    assert refusal_of(lambda: balance(database, "pop_c")) is not None


def test_an_opening_entry_is_told_as_it_was_written(opened: Database) -> None:
    with opened.unit_of_work() as session:
        like = posting.balance(session, "pop_a")
        told = posting.open_chain(
            session,
            replace(like, population_id="pop_z", name="z"),
            now=NOW,
            body={"actor": "usr_x"},
        )
        assert ledger.entry(session, told.id) == told
    assert (told.seq, told.kind, set(told.prev_hash)) == (1, "open", {"0"})


def test_the_odometers_of_a_balance(opened: Database) -> None:
    cost = job_price().total(100)
    with opened.unit_of_work() as session:
        reserve(session, "job_1", rounds=50)
        charge(session, "job_1", 1, 20)
    now = balance(opened)
    spent = admission.epsilon_spent_nano(now.terms, job_price().total(20))
    held = admission.epsilon_spent_nano(now.terms, job_price().total(50))
    after = admission.epsilon_spent_nano(now.terms, job_price().total(150))
    assert now.epsilon_spent == spent / NANO
    assert now.epsilon_committed == held / NANO
    assert now.epsilon_after(cost) == after / NANO
    assert 0 < spent < held < after < now.terms.epsilon_nano
    assert price(POISSON).per_round == job_price().per_round


def test_a_refused_reservation_tells_budget_and_share_as_they_stand(database: Database) -> None:
    with database.unit_of_work() as session:
        before = open_population(session)
        reserve(session, "job_1", rounds=100)
        held = ledger.balance(session, "pop_a").epsilon_committed

        full = refused(lambda: reserve(session, "job_2", rounds=100_000)).facts

        assert full["population"] == "pop_a"
        assert (full["epsilon"], full["epsilon_spent"]) == (before.epsilon, held)
        assert full["epsilon_after"] > before.epsilon
        ledger.set_quota(
            session,
            population_id="pop_a",
            researcher_id="usr_r",
            epsilon=3.0,
            actor_id="usr_owner",
            now=NOW,
        )
        charge(session, "job_1", 1, 50)

        share = refused(lambda: reserve(session, "job_3", rounds=2000)).facts

        assert (share["researcher"], share["epsilon"]) == ("usr_r", 3.0)
        assert 0 < share["epsilon_spent"] < 3.0
        none = refused(lambda: reserve(session, "job_4", rounds=0))
        assert [error.field for error in none.errors] == ["rounds"]
        unknown = refused(lambda: settle(session, "job_5"))
        assert (unknown.code, "job_5" in unknown.detail) == ("not_found", True)
