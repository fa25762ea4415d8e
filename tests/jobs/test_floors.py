"""Floors: what no policy can relax, however much it allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from accounting import ledger
from jobs import admission, floors, quoting
from jobs.principal import Principal
from jobs.settings import Settings
from jobs.tables_datasets import Dataset
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway.errors import Refused
from tests.support import market as markets
from tests.support.engines import embedded
from tests.support.market import OWNER, RESEARCHER, Market, let_decide, request
from tests.support.questions import ALLOW_ALL

__all__ = ["embedded"]

Change = Callable[[Market], Market]


@pytest.fixture
def market(embedded: EmbeddedEngine, sqlite_database: Database, tmp_path: Path) -> Market:
    """A market whose policy says yes to everything; no examination would let it."""
    opened = markets.open_market(sqlite_database, embedded, tmp_path)
    let_decide(opened, ALLOW_ALL)
    return opened


def setting(name: str, value: int) -> Change:
    """An operator who demands more."""

    def change(market: Market) -> Market:
        settings = market.services.settings.model_copy(update={name: value})
        return replace(market, services=replace(market.services, settings=settings))

    return change


def frozen(market: Market) -> Market:
    with market.database.unit_of_work() as session:
        ledger.freeze(
            session, population_id=market.population_id, reason="incident", actor_id=OWNER.id,
            now=market.clock(),
        )  # fmt: skip
    return market


def withdrawn(market: Market) -> Market:
    with market.database.unit_of_work() as session:
        session.execute(sa.update(Dataset).values(frozen=True))
    return market


def share(market: Market) -> Market:
    with market.database.unit_of_work() as session:
        ledger.set_quota(
            session, population_id=market.population_id, researcher_id=RESEARCHER.id,
            epsilon=1.5, actor_id=OWNER.id, now=market.clock(),
        )  # fmt: skip
    return market


def same(market: Market) -> Market:
    return market


TABLE: list[tuple[str, dict[str, object], Change, str, str]] = [
    ("noise", {"noise_multiplier": 0.29, "rounds": 1}, same, "floor", "noise_multiplier"),
    ("a cohort of one", {"clients_per_round": 1}, same, "floor", "clients_per_round"),
    ("few people", {}, setting("minimum_population_clients", 1001), "floor", "dataset"),
    ("arithmetic", {}, setting("maximum_flops_per_round", 1), "floor", "model.architecture"),
    ("model", {}, setting("maximum_model_parameters", 1), "model_refused", "model.architecture"),
    ("budget", {"rounds": 3000, "noise_multiplier": 0.5}, same, "budget_exceeded",
     "budget.epsilon"),
    ("share", {}, share, "quota_exceeded", "budget.quota"),
    ("frozen people", {}, frozen, "frozen", "dataset"),
    ("withdrawn data", {}, withdrawn, "frozen", "dataset"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "change", "code", "field"), [pytest.param(*row[1:], id=row[0]) for row in TABLE]
)
def test_no_policy_allows_it(
    market: Market, changes: dict[str, object], change: Change, code: str, field: str
) -> None:
    market = change(market)
    wanted = request(market.dataset_id, **changes)
    before = market.balance()
    with pytest.raises(Refused) as caught:
        admission.submit(market.services, RESEARCHER, wanted, None)
    fired = [rule["code"] for rule in caught.value.facts.get("rules", ())]
    assert code in (fired or [caught.value.code])
    assert any(fault.field.startswith(field) for fault in caught.value.errors)
    assert (market.balance().reserved, market.balance().charged) == (
        before.reserved, before.charged,
    )  # fmt: skip


def test_what_stands_on_every_floor_is_allowed(market: Market) -> None:
    """So each row of the table is refused for its own reason."""
    wanted = request(market.dataset_id)
    assert quoting.quote(market.services, RESEARCHER, wanted).verdict == "allow"
    assert admission.submit(market.services, RESEARCHER, wanted, None).job.status == "queued"


@pytest.mark.parametrize("role", ["owner", "auditor", "admin"])
def test_no_policy_makes_a_researcher_of_somebody(market: Market, role: str) -> None:
    other = Principal("usr_other", "other@example.org", role)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="forbidden"):
        admission.submit(market.services, other, request(market.dataset_id), None)


@pytest.mark.parametrize(("delta", "fires"), [(1e-4, False), (1.0001e-4, True), (0.5, True)])
def test_delta_stands_below_what_publishing_one_person_would_need(
    tmp_path: Path, delta: float, fires: bool
) -> None:
    wanted = request("ds_1")
    fired = floors.rules(
        Settings(state_dir=tmp_path), wanted, clients=1000, delta=delta, flops_per_round=1
    )
    assert [rule.field for rule in fired] == (["dataset"] if fires else [])
