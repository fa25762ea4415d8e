"""Several runs as one: quoted, reserved and settled together, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from accounting import ledger
from jobs import admission, lifecycle, quoting, settle, settlement, states, sweep_quotes, sweeps
from jobs.principal import Principal
from jobs.tables import Job, Outbox
from jobs.tables_sweeps import SWEEP, SWEEP_MEMBER
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import JobRequest
from privacy_gateway.verify import verify
from tests.support import market as markets
from tests.support.market import OWNER, RESEARCHER, Market, request

_OUTBOX = Outbox.__table__  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine() as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return markets.open_market(database, engine, tmp_path)


def grid(market: Market, *noises: float, **changes: Any) -> list[JobRequest]:
    return [request(market.dataset_id, noise_multiplier=noise, **changes) for noise in noises]


def count(market: Market, table: Any) -> int:
    with market.database.read() as session:
        return int(session.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def test_members_are_reserved_together_and_named_in_the_ledger(market: Market) -> None:
    wanted = grid(market, 1.1, 1.3, 1.5)
    quoted = sweep_quotes.quote(market.services, RESEARCHER, wanted)
    sweep, replayed = sweeps.submit(market.services, RESEARCHER, wanted, "grid-1")
    assert not replayed
    assert (sweep.status, sweep.rounds, len(sweep.jobs)) == ("open", 60, 3)
    assert [job.noise_multiplier for job in sweep.jobs] == [1.1, 1.3, 1.5]
    entries = market.entries("reserve")
    assert [entry.job_id for entry in entries] == [job.id for job in sweep.jobs]
    assert {entry.leaf["facts"]["sweep"] for entry in entries} == {sweep.id}
    total = [sum(parts) for parts in zip(*(e.leaf["cost"] for e in entries), strict=True)]
    assert list(market.balance().reserved) == total
    (budget,) = quoted.budgets
    assert market.balance().epsilon_committed == budget.budget_after
    assert budget.budget_before == 0.0
    assert quoted.verdict == "allow"
    assert count(market, _OUTBOX) == 3


def test_a_quote_counts_the_members_before(market: Market) -> None:
    wanted = grid(market, 1.1, 1.1)
    before = market.balance()
    first, second = sweep_quotes.quote(market.services, RESEARCHER, wanted).quotes
    alone = quoting.quote(market.services, RESEARCHER, wanted[0])
    assert first.model_dump(exclude={"counter_offer"}) == alone.model_dump(
        exclude={"counter_offer"}
    )
    assert second.budget_before == first.budget_after
    assert second.epsilon == first.epsilon
    assert second.budget_after is not None
    assert first.budget_after is not None
    assert second.budget_after > first.budget_after
    assert market.balance() == before


def test_what_does_not_fit_together_reserves_nothing(market: Market) -> None:
    one = request(market.dataset_id, rounds=250)
    most = quoting.quote(market.services, RESEARCHER, one).how_many_more
    assert most >= 1
    wanted = [one] * (most + 1)
    quoted = sweep_quotes.quote(market.services, RESEARCHER, wanted)
    assert (quoted.fits, quoted.verdict, quoted.refused) == (False, "deny", [most])
    with pytest.raises(Refused) as caught:
        sweeps.submit(market.services, RESEARCHER, wanted, "too-many")
    assert caught.value.code == "budget_exceeded"
    assert caught.value.facts["member"] == most
    assert caught.value.errors[0].field.startswith(f"jobs[{most}].")
    assert not any(market.balance().reserved)
    for table in (Job.__table__, SWEEP, SWEEP_MEMBER, _OUTBOX):  # type: ignore[attr-defined]
        assert count(market, table) == 0
    (denied,) = market.entries("deny")
    assert denied.leaf["facts"]["sweep"] == caught.value.facts["sweep"]
    # The key was not used up, and what fits is admitted under it.
    sweep, _ = sweeps.submit(market.services, RESEARCHER, wanted[:most], "too-many")
    assert len(sweep.jobs) == most


def test_one_member_that_the_policy_refuses_refuses_all(market: Market) -> None:
    wanted = [*grid(market, 1.1, 1.2), request(market.dataset_id, purpose="ads")]
    with pytest.raises(Refused) as caught:
        sweeps.submit(market.services, RESEARCHER, wanted, None)
    assert caught.value.code == "policy_denied"
    assert caught.value.facts["member"] == 2
    assert not any(market.balance().reserved)
    assert count(market, SWEEP) == 0


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"clients_per_round": 1001}, "invalid_request", "jobs[1].clients_per_round"),
        ({"kind": "query"}, "unsupported", "jobs[1].kind"),
        ({"dataset": "ds_nowhere"}, "not_found", "jobs[1].dataset"),
    ],
)
def test_a_member_that_cannot_be_priced_is_named(
    market: Market, changes: dict[str, Any], code: str, field: str
) -> None:
    wanted = [request(market.dataset_id), request(**({"dataset_id": market.dataset_id} | changes))]
    with pytest.raises(Refused) as caught:
        sweeps.submit(market.services, RESEARCHER, wanted, None)
    assert (caught.value.code, caught.value.errors[0].field) == (code, field)
    assert not market.entries("deny")


def test_a_key_means_one_sweep(market: Market) -> None:
    wanted = grid(market, 1.1, 1.2)
    first, _ = sweeps.submit(market.services, RESEARCHER, wanted, "again")
    again, replayed = sweeps.submit(market.services, RESEARCHER, wanted, "again")
    assert replayed
    assert [job.id for job in again.jobs] == [job.id for job in first.jobs]
    with pytest.raises(Refused) as caught:
        sweeps.submit(market.services, RESEARCHER, wanted[:1], "again")
    assert caught.value.code == "idempotency_mismatch"
    assert len(market.entries("reserve")) == 2


def test_equal_sweeps_at_once_are_one(market: Market) -> None:
    wanted, ids, barrier = grid(market, 1.1, 1.2), set(), threading.Barrier(6)

    def post() -> None:
        barrier.wait()
        ids.add(sweeps.submit(market.services, RESEARCHER, wanted, "once")[0].id)

    threads = [threading.Thread(target=post) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 1
    assert len(market.entries("reserve")) == 2


def test_a_sweep_is_over_when_its_jobs_are(market: Market) -> None:
    sweep, _ = sweeps.submit(market.services, RESEARCHER, grid(market, 1.1, 1.2), None)
    first, second = (job.id for job in sweep.jobs)
    lifecycle.cancel(market.services, RESEARCHER, first)
    half = sweeps.find(market.services, RESEARCHER, sweep.id)
    assert (half.status, half.ended) == ("open", 1)
    assert any(market.balance().reserved)
    with market.database.unit_of_work() as session:
        job = states.locked(session, second)
        settlement.end(session, job, "cancelled", reason="for a test", now=market.clock())
    assert sweeps.find(market.services, RESEARCHER, sweep.id).status == "over"
    assert not any(market.balance().reserved)


def test_cancelling_gives_everything_back(market: Market) -> None:
    sweep, _ = sweeps.submit(market.services, RESEARCHER, grid(market, 1.1, 1.2, 1.3), None)
    lifecycle.cancel(market.services, RESEARCHER, sweep.jobs[0].id)
    over = sweeps.cancel(market.services, RESEARCHER, sweep.id)
    assert (over.status, over.ended) == ("over", 3)
    assert not any(market.balance().reserved)
    with pytest.raises(Refused) as caught:
        sweeps.cancel(market.services, RESEARCHER, sweep.id)
    assert caught.value.code == "conflict"


def test_a_sweep_is_seen_by_those_who_see_its_jobs(market: Market) -> None:
    sweep, _ = sweeps.submit(market.services, RESEARCHER, grid(market, 1.1), None)
    assert sweeps.find(market.services, OWNER, sweep.id).id == sweep.id
    for stranger in (
        Principal("usr_bob", "bob@example.org", "researcher"),
        Principal("usr_other", "other@example.org", "owner"),
    ):
        for act in (sweeps.find, sweeps.cancel):
            with pytest.raises(Refused) as caught:
                act(market.services, stranger, sweep.id)
            assert caught.value.code == "not_found"


def test_the_export_of_a_sweep_verifies(market: Market) -> None:
    sweep, _ = sweeps.submit(market.services, RESEARCHER, grid(market, 1.1, 1.4), None)
    sweeps.cancel(market.services, RESEARCHER, sweep.id)
    with market.database.read() as session:
        report = verify(ledger.export_lines(session))
    assert report.ok, report


def test_a_single_job_may_use_the_same_key(market: Market) -> None:
    wanted = grid(market, 1.1)
    sweeps.submit(market.services, RESEARCHER, wanted, "k")
    alone = admission.submit(market.services, RESEARCHER, wanted[0], "k")
    assert not alone.replayed
    assert len(market.entries("reserve")) == 2


def test_a_sweep_that_takes_too_long_lets_others_write_and_reserves_nothing(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (settle, sweeps):
        monkeypatch.setattr(module, "MOST_SECONDS", 0.0)
    with pytest.raises(Refused) as caught:
        sweeps.submit(market.services, RESEARCHER, grid(market, 1.1, 1.3, 1.5), "slow")
    assert caught.value.code == "unavailable"
    assert count(market, Job.__table__) == 0
    assert set(market.balance().reserved) == {0}
