"""Submitting a job: what is reserved, what is recorded, and what a refusal says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from accounting import ledger
from jobs import admission, quoting, views
from jobs.principal import Principal
from jobs.tables import Job, Outbox
from jobs.tables_datasets import Dataset
from kit.db import Database
from policies import revisions
from policies.embedded import EmbeddedEngine
from privacy_gateway.errors import Refused
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


def submit(market: Market, key: str | None = None, **changes: object) -> admission.Outcome:
    return admission.submit(market.services, RESEARCHER, request(market.dataset_id, **changes), key)


def refusal(market: Market, **changes: object) -> Refused:
    with pytest.raises(Refused) as caught:
        submit(market, **changes)
    return caught.value


def decisions(market: Market) -> list[dict[str, object]]:
    with market.database.read() as session:
        return revisions.decisions(session, dataset_ids=[market.dataset_id])


def jobs(market: Market) -> list[Job]:
    with market.database.read() as session:
        found = list(session.execute(sa.select(Job)).scalars())
        session.expunge_all()
        return found


def test_an_admitted_job_is_reserved_queued_and_hinted(market: Market) -> None:
    outcome = submit(market)

    assert outcome.job.status == "queued"
    assert not outcome.replayed
    assert market.balance().reserved != market.balance().charged
    with market.database.read() as session:
        hints = session.execute(sa.select(Outbox.job_id, Outbox.sent_at)).all()
        held = ledger.held(session, outcome.job.id)
    assert hints == [(outcome.job.id, None)]
    assert held is not None
    assert held.rounds_left == 20


def test_the_quote_equals_the_reservation_to_the_last_unit(market: Market) -> None:
    wanted = request(market.dataset_id)
    submit(market)
    for _ in range(2):
        before = market.balance()
        quote = quoting.quote(market.services, RESEARCHER, wanted)
        outcome = submit(market)
        after = market.balance()
        moved = [a - b for a, b in zip(after.reserved, before.reserved, strict=True)]
        assert moved == quote.mechanism["cost_pico_nats"]
        assert outcome.job.epsilon == quote.epsilon
        assert (
            quote.budget_after == quoting.quote(market.services, RESEARCHER, wanted).budget_before
        )


def test_the_entry_names_decision_policy_and_dataset(market: Market) -> None:
    outcome = submit(market)
    (entry,) = market.entries("reserve")
    facts = entry.leaf["facts"]
    (decision,) = decisions(market)

    assert entry.leaf["job"] == outcome.job.id
    assert facts["decision_id"] == decision["id"]
    assert facts["decision_digest"] == decision["digest"]
    assert facts["dataset"] == market.dataset_id
    assert facts["policy_revision"] == 1
    assert decision["outcome"] == "allow"
    assert decision["job_id"] == outcome.job.id


def test_a_refusal_reserves_nothing_and_is_recorded(market: Market) -> None:
    before = market.balance()
    refused = refusal(market, purpose="ads", noise_multiplier=0.05)
    after = market.balance()

    assert refused.code == "policy_denied"
    assert {rule["code"] for rule in refused.facts["rules"]} == {
        "purpose_unknown",
        "price_cap",
        "budget_exceeded",
        "floor",
    }
    assert (after.charged, after.reserved) == (before.charged, before.reserved)
    assert jobs(market) == []
    (entry,) = market.entries("deny")
    (decision,) = decisions(market)
    assert entry.leaf["reason"] == "policy_denied"
    assert decision["outcome"] == "deny"
    assert refused.facts["decision"] == decision["id"]
    assert refused.facts["left"]["epsilon_remaining"] == 8.0
    assert refused.facts["price"]["epsilon"] > 1000


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"noise_multiplier": 0.31, "clients_per_round": 900}, "policy_denied"),
        ({"purpose": "ads"}, "policy_denied"),
        ({"clients_per_round": 1}, "floor"),
    ],
)
def test_the_code_says_who_refuses(
    small_market: Market, changes: dict[str, object], code: str
) -> None:
    refused = refusal(small_market, **changes)
    assert refused.code == code
    assert all(fault.field for fault in refused.errors)


def test_the_budget_refuses_what_the_policy_allows(
    sqlite_database: Database, engine: EmbeddedEngine, tmp_path: Path
) -> None:
    generous = markets.policy(cap=5000)
    market = markets.open_market(sqlite_database, engine, tmp_path, source=generous)
    refused = refusal(market, rounds=900, noise_multiplier=0.6)
    assert refused.code == "budget_exceeded"
    assert [rule["code"] for rule in refused.facts["rules"]] == ["budget_exceeded"]


def test_a_quota_refuses_within_a_roomy_budget(small_market: Market) -> None:
    with small_market.database.unit_of_work() as session:
        ledger.set_quota(
            session,
            population_id=small_market.population_id,
            researcher_id=RESEARCHER.id,
            epsilon=1.5,
            actor_id=OWNER.id,
            now=small_market.clock(),
        )
    refused = refusal(small_market)
    assert refused.code == "quota_exceeded"
    assert refused.facts["left"]["quota_epsilon"] == 1.5

    other = Principal("usr_bob", "bob@example.org", "researcher")
    wanted = request(small_market.dataset_id)
    assert admission.submit(small_market.services, other, wanted, None).job.status == "queued"


def test_a_frozen_population_admits_nothing(market: Market) -> None:
    with market.database.unit_of_work() as session:
        ledger.freeze(
            session,
            population_id=market.population_id,
            reason="incident",
            actor_id=OWNER.id,
            now=market.clock(),
        )
    refused = refusal(market)
    assert refused.code == "frozen"
    assert refused.detail == "The population is frozen by its owner"
    assert market.entries("reserve") == []


def test_a_withdrawn_dataset_admits_nothing(small_market: Market) -> None:
    with small_market.database.unit_of_work() as session:
        session.execute(sa.update(Dataset).values(frozen=True))
    refused = refusal(small_market)
    assert refused.code == "frozen"
    assert refused.detail == "The dataset is frozen by its owner"
    assert refused.facts["counter_offer"] is None


def test_without_an_engine_every_submit_is_refused_and_recorded(
    market: Market,
) -> None:
    with markets.engine() as gone:
        pass
    broken = market.with_engine(gone)
    for count in (1, 2):
        before = broken.balance()
        assert refusal(broken).code == "policy_unavailable"
        assert broken.balance().reserved == before.reserved
        assert len(broken.entries("deny")) == count
        assert len(decisions(broken)) == count
    assert submit(market).job.status == "queued"


def test_the_same_key_and_body_is_the_same_job(market: Market) -> None:
    first = submit(market, "key-1")
    again = submit(market, "key-1")
    assert again.replayed
    assert again.job.id == first.job.id
    assert len(market.entries("reserve")) == 1


def test_the_same_key_with_another_body_is_refused(market: Market) -> None:
    first = submit(market, "key-1")
    with pytest.raises(Refused) as caught:
        submit(market, "key-1", rounds=21)
    assert caught.value.code == "idempotency_mismatch"
    assert caught.value.facts["job"] == first.job.id
    assert len(market.entries("reserve")) == 1


def test_keys_belong_to_one_researcher(market: Market) -> None:
    other = Principal("usr_bob", "bob@example.org", "researcher")
    first = submit(market, "key-1")
    second = admission.submit(market.services, other, request(market.dataset_id), "key-1")
    assert first.job.id != second.job.id


def test_a_refused_attempt_leaves_its_key_free(market: Market) -> None:
    with pytest.raises(Refused):
        submit(market, "key-1", purpose="ads")
    assert not submit(market, "key-1").replayed


@pytest.mark.parametrize("key", ["", "x" * 201, "a\nb"])
def test_a_strange_key_is_refused_by_name(small_market: Market, key: str) -> None:
    with pytest.raises(Refused) as caught:
        submit(small_market, key)
    assert caught.value.code == "invalid_request"
    assert caught.value.errors[0].field == "Idempotency-Key"


def test_dp_fedprox_costs_what_dp_fedavg_costs(small_market: Market) -> None:
    costs = []
    for algorithm in ({"name": "dp_fedavg"}, {"name": "dp_fedprox", "proximal_mu": 0.1}):
        before = small_market.balance().reserved
        submit(small_market, algorithm=algorithm)
        after = small_market.balance().reserved
        costs.append([b - a for a, b in zip(before, after, strict=True)])
    assert costs[0] == costs[1]


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"clients_per_round": 1001}, "invalid_request", "clients_per_round"),
        ({"sampling": "none"}, "invalid_request", "clients_per_round"),
        ({"kind": "query"}, "unsupported", "kind"),
        ({"mock": True}, "unsupported", "mock"),
        ({"algorithm": {"name": "dp_ftrl"}}, "invalid_request", "sampling"),
        (
            {"algorithm": {"name": "dp_fedavg", "clip_norm": "adaptive"}, "sampling": "fixed_size"},
            "invalid_request",
            "algorithm.clip_norm",
        ),
        ({"outputs": ["weights", "dp_metrics"]}, "unsupported", "outputs"),
        ({"algorithm": {"name": "dp_fedprox"}}, "invalid_request", "algorithm.proximal_mu"),
        (
            {"algorithm": {"name": "dp_fedprox", "proximal_mu": 0.0}},
            "invalid_request",
            "algorithm.proximal_mu",
        ),
        (
            {"algorithm": {"name": "dp_fedavg", "proximal_mu": 0.5}},
            "invalid_request",
            "algorithm.proximal_mu",
        ),
        (
            {
                "model": {
                    "architecture": {
                        "input": {"shape": [5]},
                        "layers": [{"type": "Dense", "units": 3}],
                    }
                }
            },
            "model_refused",
            "model.architecture.input.shape",
        ),
    ],
)
def test_an_impossible_request_is_refused_before_the_ledger(
    small_market: Market, changes: dict[str, object], code: str, field: str
) -> None:
    before = small_market.balance()
    refused = refusal(small_market, **changes)
    assert refused.code == code
    assert field in [fault.field for fault in refused.errors]
    assert small_market.balance() == before
    assert decisions(small_market) == []


def test_a_dataset_without_policy_looks_absent(small_market: Market) -> None:
    with small_market.database.unit_of_work() as session:
        known = session.get(Dataset, small_market.dataset_id)
        assert known is not None
        facts = known.model_dump() | {"id": "ds_bare", "name": "bare"}
        session.add(Dataset(**facts))
    said = []
    for dataset in ("ds_bare", "ds_nowhere"):
        with pytest.raises(Refused) as caught:
            admission.submit(small_market.services, RESEARCHER, request(dataset), None)
        said.append((caught.value.code, caught.value.detail.replace(dataset, "…")))
    assert said[0] == said[1]
    assert said[0][0] == "not_found"


@pytest.mark.parametrize("role", ["owner", "auditor", "admin"])
def test_only_researchers_submit(small_market: Market, role: str) -> None:
    caller = Principal("usr_x", "x@example.org", role)  # type: ignore[arg-type]
    with pytest.raises(Refused) as caught:
        admission.submit(small_market.services, caller, request(small_market.dataset_id), None)
    assert caught.value.code == "forbidden"


def test_jobs_are_seen_by_those_they_concern(small_market: Market) -> None:
    job_id = submit(small_market).job.id
    stranger = Principal("usr_bob", "bob@example.org", "researcher")
    auditor = Principal("usr_audit", "audit@example.org", "auditor")
    with small_market.database.read() as session:
        for caller in (RESEARCHER, OWNER, auditor):
            assert views.get_job(session, caller, job_id).id == job_id
            assert [job.id for job in views.list_jobs(session, caller)] == [job_id]
        with pytest.raises(Refused) as caught:
            views.get_job(session, stranger, job_id)
        assert caught.value.code == "not_found"
        assert views.list_jobs(session, stranger) == []
        assert views.list_jobs(session, RESEARCHER, after=job_id) == []
        assert views.list_jobs(session, RESEARCHER, status="running") == []
