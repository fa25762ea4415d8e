"""Ends, receipts and results: what is voided, what is forfeited, what is handed out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from accounting import ledger
from jobs import admission, blocks, releases, rounds, settlement, views
from jobs.errors import FAILURES, SAW_DATA, FailureCode
from jobs.principal import Principal
from jobs.rounds import Claim
from jobs.tables import Job
from kit import tensors
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway.errors import Refused
from tests.support import market as support
from tests.support.market import OWNER, RESEARCHER, Market

AUDITOR = Principal("usr_audra", "audra@example.org", "auditor")
MODEL = tensors.dump({"weight_0000": np.ones((4, 3), np.float32)})


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with support.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return support.open_market(database, engine, tmp_path)


def running(
    market: Market, *, charge: bool = True, model: bytes = MODEL, **changes: object
) -> Claim:
    """A job of 20 rounds, 5 of them charged and one published."""
    request = support.request(market.dataset_id, **changes)
    job_id = admission.submit(market.services, RESEARCHER, request, None).job.id
    with market.database.unit_of_work() as session:
        held = rounds.claim(session, job_id, worker="w", lease_seconds=60, now=market.clock())
    assert held is not None
    if charge:
        blocks.next_block(market.services, held)
        with market.database.unit_of_work() as session:
            releases.publish(
                session, held, first=1, round_number=1, weights=model,
                server_state=None, digest=tensors.digest(model), now=market.clock(),
            )  # fmt: skip
    return held


def end(market: Market, held: Claim, status: str, failure: FailureCode | None = None) -> Job:
    with market.database.unit_of_work() as session:
        job = rounds.guard(session, held)
        settlement.end(
            session, job, status, reason="for a test", failure=failure, now=market.clock()
        )
    with market.database.read() as session:
        return session.get_one(Job, held.job_id)


def result(market: Market, held: Claim, **options: object) -> settlement.Result:
    with market.database.read() as session:
        return settlement.result(session, RESEARCHER, held.job_id, **options)  # type: ignore[arg-type]


def receipt(market: Market, held: Claim, who: Principal = RESEARCHER) -> dict[str, Any]:
    with market.database.read() as session:
        return settlement.receipt(session, who, held.job_id)


def oblige(market: Market, obligations: str) -> None:
    """Put the owner's word on the job, as the last block's decision does."""
    with market.database.unit_of_work() as session:
        session.execute(sa.update(Job.__table__).values(obligations=obligations))


def elapse(market: Market, *, hours: float) -> None:
    """Let the delay be that much shorter: nobody can move the database's clock."""
    moved = Job.__table__.c.release_at - round(hours * 3_600_000_000)
    with market.database.unit_of_work() as session:
        session.execute(sa.update(Job.__table__).values(release_at=moved))


@pytest.mark.parametrize(
    "status", ["completed", "cancelled", "expired", "stopped_by_policy", "frozen"]
)
def test_a_public_end_gives_the_uncharged_rest_back(market: Market, status: str) -> None:
    done = end(market, running(market), status)
    assert done.rounds_charged == 5
    assert done.lease_expires_at is None
    balance = market.balance()
    assert set(balance.reserved) == {0}
    (charge,) = market.entries("charge")
    assert list(balance.charged) == charge.leaf["cost"]


@pytest.mark.parametrize("failure", sorted(FAILURES))
def test_a_failure_that_may_depend_on_data_is_paid_in_full(
    market: Market, failure: FailureCode
) -> None:
    done = end(market, running(market), "failed", failure)
    assert done.failure == failure
    assert done.rounds_charged == (20 if failure in SAW_DATA else 5)
    assert set(market.balance().reserved) == {0}


@pytest.mark.parametrize(
    ("status", "reason", "charged", "paid"),
    [
        ("cancelled", "attempt_failed", True, 20),
        ("cancelled", "attempt_failed", False, 0),
        # Nobody's data had a part in these.
        ("cancelled", "worker_lost", True, 5),
        ("cancelled", "worker_stopping", True, 5),
        ("cancelled", "policy_unavailable", True, 5),
        ("expired", "attempt_failed", True, 5),
    ],
)
def test_who_gives_up_after_a_failed_attempt_pays_as_if_it_had_failed_for_good(
    market: Market, status: str, reason: str, charged: bool, paid: int
) -> None:
    held = running(market, charge=charged)
    with market.database.unit_of_work() as session:
        rounds.release(session, held, reason=reason, now=market.clock())
        before = session.get_one(Job, held.job_id)
        settlement.end(session, before, status, reason="given up", now=market.clock())
    with market.database.read() as session:
        done = session.get_one(Job, held.job_id)
    assert (done.status, done.failure, done.rounds_charged) == (status, None, paid)
    balance = market.balance()
    assert set(balance.reserved) == {0}
    per_round = market.entries("reserve")[0].leaf["per_round"]
    assert list(balance.charged) == [paid * part for part in per_round]


def test_the_owner_who_stops_a_job_gives_the_rest_back_all_the_same(market: Market) -> None:
    held = running(market)
    with market.database.unit_of_work() as session:
        rounds.release(session, held, reason="attempt_failed", now=market.clock())
    with market.database.unit_of_work() as session:
        again = rounds.claim(
            session, held.job_id, worker="other", lease_seconds=60, now=market.clock()
        )
    assert again is not None
    market.activate(support.policy(rounds=10))
    assert end(market, again, "stopped_by_policy").rounds_charged == 5


def test_a_failure_before_any_charge_costs_nothing(market: Market) -> None:
    done = end(market, running(market, charge=False), "failed", "worker_lost")
    assert done.rounds_charged == 0
    assert set(market.balance().charged) == {0}


def test_a_frozen_population_is_charged_nothing_more(market: Market) -> None:
    held = running(market)
    with market.database.unit_of_work() as session:
        ledger.freeze(
            session, population_id=market.population_id, reason="stop",
            actor_id=OWNER.id, now=market.clock(),
        )  # fmt: skip
    done = end(market, held, "failed", "worker_lost")
    assert (done.status, done.rounds_charged) == ("frozen", 5)


def test_a_job_ends_once(market: Market) -> None:
    held = running(market)
    end(market, held, "completed")
    with market.database.unit_of_work() as session, pytest.raises(Refused, match="conflict"):
        job = session.get_one(Job, held.job_id)
        settlement.end(session, job, "cancelled", reason="again", now=market.clock())
    assert len(market.entries("void")) == 1


def test_the_receipt_says_what_was_guaranteed(market: Market) -> None:
    held = running(market)
    done = end(market, held, "cancelled")
    with market.database.read() as session:
        receipt = settlement.receipt(session, RESEARCHER, held.job_id)
        mine = ledger.entries(session, job=held.job_id, limit=10)
    assert receipt["guarantee"]["delta"] == 1e-5
    assert "zero-out" in receipt["guarantee"]["adjacency"]
    assert receipt["sampling"] == {"kind": "poisson", "clients_per_round": 50, "rate": 0.05}
    assert receipt["rounds"] == {"requested": 20, "charged": 5, "published": 1}
    assert receipt["policy"]["decision_digest"] == done.decision_digest
    sequence = sorted(mine, key=lambda entry: entry.seq)
    assert receipt["ledger"]["first_hash"] == sequence[0].hash
    assert receipt["ledger"]["last_hash"] == sequence[-1].hash
    assert receipt["mechanism_digest"] == done.mechanism_digest
    assert "4 more were charged" in receipt["statement"]
    assert "dp-accounting" in receipt["accountant"]


def test_no_receipt_before_the_end(market: Market) -> None:
    held = running(market)
    with market.database.read() as session, pytest.raises(Refused, match="not_ready"):
        settlement.receipt(session, RESEARCHER, held.job_id)


@pytest.mark.parametrize("stored", ["safetensors", "npz"])
def test_results_in_both_forms_hold_the_same_arrays(market: Market, stored: tensors.Form) -> None:
    """What is stored, NPZ by earlier versions, is what the receipt names; it goes out as it is."""
    model = tensors.in_form(MODEL, stored)
    held = running(market, model=model)
    end(market, held, "completed")
    forms: tuple[tensors.Form, ...] = ("npz", "safetensors")
    files = {form: result(market, held, form=form) for form in forms}
    for form, file in files.items():
        assert tensors.form_of(file.data) == form
        assert tensors.load(file.data)["weight_0000"].tolist() == [[1.0] * 3] * 4
        assert file.digest == tensors.digest(file.data)
        assert file.filename == f"{held.job_id}.{form}"
    assert files[stored].data == model
    told = receipt(market, held)["model"]
    assert (told["form"], told["sha256"]) == (stored, files[stored].digest)


def test_results_are_of_the_researcher_alone(market: Market) -> None:
    held = running(market)
    end(market, held, "completed")
    stranger = Principal("usr_eve", "eve@example.org", "researcher")
    with market.database.read() as session, pytest.raises(Refused, match="not_found"):
        settlement.result(session, stranger, held.job_id)


def test_no_result_without_a_published_round(market: Market) -> None:
    held = running(market, charge=False)
    end(market, held, "cancelled")
    with pytest.raises(Refused, match="not_ready"):
        result(market, held)


def test_weights_that_were_not_asked_for_are_not_handed_out(market: Market) -> None:
    held = running(market, outputs=["receipt"])
    end(market, held, "completed")
    with pytest.raises(Refused, match="forbidden"):
        result(market, held)


def test_the_owners_obligations_hold_at_the_door(market: Market) -> None:
    held = running(market)
    oblige(market, '{"outputs":["receipt"]}')
    end(market, held, "completed")
    with pytest.raises(Refused, match="forbidden"):
        result(market, held)
    assert receipt(market, held)["job"] == held.job_id
    oblige(market, '{"outputs":["weights"]}')
    assert result(market, held, form="safetensors").data == MODEL
    with pytest.raises(Refused, match="forbidden"):
        receipt(market, held)
    # Those who watch over the budget see every receipt.
    assert receipt(market, held, OWNER) == receipt(market, held, AUDITOR)


@pytest.mark.parametrize("hours_off", [-90_000, 0, 90_000])
def test_a_delay_is_counted_by_the_databases_clock(market: Market, hours_off: int) -> None:
    """Whatever the gateway's and the worker's clocks say, and wherever they are set to."""
    held = running(market)
    oblige(market, '{"release_delay_hours":2}')
    market.clock.advance(hours=hours_off)
    end(market, held, "completed")
    market.clock.advance(hours=3)
    for door in (result, receipt):
        with pytest.raises(Refused, match="not_ready") as caught:
            door(market, held)
        assert caught.value.facts["due"] is not None
    assert receipt(market, held, OWNER)["job"] == held.job_id
    elapse(market, hours=1.9)
    with pytest.raises(Refused, match="not_ready"):
        result(market, held)
    elapse(market, hours=0.1)
    assert result(market, held, form="safetensors").data == MODEL
    assert receipt(market, held)["job"] == held.job_id


def test_nothing_is_held_back_of_a_job_that_opened_nothing(market: Market) -> None:
    held = running(market, charge=False)
    oblige(market, '{"outputs":["weights"],"release_delay_hours":2}')
    end(market, held, "cancelled")
    assert receipt(market, held)["rounds"]["charged"] == 0


def test_figures_about_a_withheld_model_are_withheld_too(market: Market) -> None:
    held = running(market)
    with market.database.unit_of_work() as session:
        releases.measure(session, rounds.guard(session, held), {"accuracy": 0.9})
    oblige(market, '{"release_delay_hours":2}')
    end(market, held, "completed")

    def seen(obligations: str) -> object:
        oblige(market, obligations)
        with market.database.read() as session:
            told = views.get_job(session, RESEARCHER, held.job_id)
            (listed,) = views.list_jobs(session, RESEARCHER)
        assert told == listed
        return told.metrics

    assert seen("{}") == {"accuracy": 0.9}
    assert seen('{"outputs":["receipt"]}') is None
    assert seen('{"release_delay_hours":2}') is None
    elapse(market, hours=2)
    assert seen('{"release_delay_hours":2}') == {"accuracy": 0.9}


def test_figures_nobody_asked_for_are_not_told(market: Market) -> None:
    held = running(market, outputs=["receipt"])
    with market.database.unit_of_work() as session:
        releases.measure(session, rounds.guard(session, held), {"accuracy": 0.9})
    end(market, held, "completed")
    with market.database.read() as session:
        assert views.get_job(session, RESEARCHER, held.job_id).metrics is None
