"""Free evaluations: on what the owner declared public; asked, recorded, and nobody opened."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accounting.export import export_lines
from jobs import (
    admission,
    inverse,
    quoting,
    settlement,
    starting_weights,
    sweep_quotes,
    views,
)
from jobs.tables import Job
from jobs.tables_datasets import Dataset
from kit.db import Database
from policies import revisions
from policies.embedded import EmbeddedEngine
from privacy_gateway import canonical, rdp, verify
from privacy_gateway.errors import Refused
from tests.support import market as markets
from tests.support import workers
from tests.support.market import RESEARCHER, Market
from tests.support.trainer import Stable
from worker import coordinator
from worker.coordinator import Tools
from worker.launcher import Sandbox
from worker.noise import NoiseSource
from worker.task import TrainingTask
from worker.trainers import Data


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(sqlite_database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return workers.open_market(sqlite_database, engine, tmp_path)


def request(market: Market, **changes: Any) -> Any:
    free = {
        "kind": "evaluate",
        "split": "public_test",
        "rounds": 1,
        "outputs": ["dp_metrics", "receipt"],
        "clients_per_round": 1,
        "noise_multiplier": 0.01,
    }
    return markets.request(market.dataset_id, **free | changes)


def submit(market: Market, asked: Any) -> str:
    return admission.submit(market.services, RESEARCHER, asked, None).job.id


def run(market: Market, job_id: str, opened: Any) -> Job:
    tools = Tools(opened, noise=lambda: NoiseSource(bytes(32)))
    assert coordinator.run(market.services, job_id, worker="w", tools=tools) == "ended"
    return workers.job(market, job_id)


def trained(market: Market) -> str:
    job_id = submit(market, markets.request(market.dataset_id, rounds=1))
    run(market, job_id, Stable())
    return job_id


def declare(market: Market, **manifest: Any) -> None:
    """What the owner could have said at registration; a row never changes afterwards."""
    with market.database.unit_of_work() as session:
        old = session.get_one(Dataset, market.dataset_id)
        row = Dataset(**old.model_dump())
        row.id, row.version = f"{old.id}_2", 2
        row.manifest = old.manifest | manifest
        session.add(row)
        session.flush()
        source = markets.policy()
        markets.activate(session, market.services.engine, row.id, source, market.services.clock())


class Opened:
    """Starts real sandboxes and remembers what each was given."""

    def __init__(self) -> None:
        self.given: list[tuple[Data, Path | None]] = []

    def __call__(self, task: TrainingTask, store: Data, test: Path | None) -> Sandbox:
        self.given.append((store, test))
        return Sandbox(task, store, test_store=test)


@pytest.mark.tensorflow
def test_a_public_set_is_measured_for_nothing_and_nobody_is_opened(market: Market) -> None:
    model = trained(market)
    before, opened = market.balance(), Opened()
    asked = request(market, initial={"job": model})
    quote = quoting.quote(market.services, RESEARCHER, asked)
    assert (quote.epsilon, quote.fits, quote.verdict) == (0.0, True, "allow")
    assert quote.budget_after == quote.budget_before
    assert quote.mechanism["event"] == "NoOpDpEvent()"
    assert quote.mechanism["cost_pico_nats"] == [0] * len(rdp.ORDERS)

    job = run(market, submit(market, asked), opened)

    assert (job.status, job.rounds_published) == ("completed", 1)
    after = market.balance()
    assert (after.charged, after.reserved) == (before.charged, before.reserved)
    _, public = workers_stores(market)
    assert opened.given == [(None, public)]
    with market.database.read() as session:
        view = views.get_job(session, RESEARCHER, job.id)
        receipt = settlement.receipt(session, RESEARCHER, job.id)
        trained_view = views.get_job(session, RESEARCHER, model)
    metrics, first = view.metrics, trained_view.metrics
    # Nobody was drawn and no noise was added, whatever the body said.
    assert (view.clients_per_round, view.noise_multiplier) == (None, None)
    assert receipt["sampling"] == {"kind": "none", "clients_per_round": 0, "rate": 0.0}
    assert (trained_view.clients_per_round, trained_view.noise_multiplier) == (50, 1.1)
    assert metrics is not None
    assert set(metrics) == {"accuracy", "loss", "examples"}
    assert metrics["examples"] == 50
    assert first is not None
    assert receipt["guarantee"]["epsilon"] == 0.0
    assert receipt["dataset"]["public_test_examples"] == 50
    assert (receipt["model"]["evaluated_job"], receipt["model"]["split"]) == (model, "public_test")
    assert "declared public" in receipt["statement"]
    # Asked of the policy, recorded in the ledger, and right to whoever checks the books.
    mine = [entry for entry in market.entries("charge") if entry.leaf["job"] == job.id]
    assert [entry.leaf["mechanism"] for entry in mine] == [
        {"kind": "public_data", "release": "evaluation"}
    ]
    assert mine[0].leaf["facts"]["decision_digest"]
    assert verified(market) == []


def workers_stores(market: Market) -> tuple[Path, Path]:
    home = market.services.settings.state_dir
    return home / "people", home / "public"


def verified(market: Market) -> list[Any]:
    """What is wrong with the books, held against the decision log."""
    with market.database.read() as session:
        log = revisions.decisions(session, limit=1000)
        for decision in log:
            del decision["created_at"]
        lines = [canonical.dumps(decision, floats=True) for decision in log]
        report = verify.verify(export_lines(session), decisions=lines)
    assert report.decisions
    return list(report.problems)


@pytest.mark.tensorflow
def test_uploaded_weights_may_be_measured_where_nobody_can_be_seen(market: Market) -> None:
    arrays = io.BytesIO()
    np.savez(arrays, np.zeros((4, 3), np.float32), np.zeros(3, np.float32))
    with market.database.unit_of_work() as session:
        upload = starting_weights.read(arrays.getvalue(), parameters=100)
        now = market.clock()
        starting_weights.keep(session, RESEARCHER, upload, most_stored=10_000, now=now)
    job = run(market, submit(market, request(market, initial={"weights": upload.id})), Opened())
    with market.database.read() as session:
        metrics = views.get_job(session, RESEARCHER, job.id).metrics
        receipt = settlement.receipt(session, RESEARCHER, job.id)
    assert metrics is not None
    # Equal logits: every class is as likely.
    assert metrics["loss"] == pytest.approx(np.log(3), abs=1e-5)
    assert receipt["model"]["evaluated"]["kind"] == "upload"


def test_only_the_owner_says_what_is_public(market: Market) -> None:
    model = trained(market)
    declare(market, test_public=False)
    kept = f"{market.dataset_id}_2"
    wrong: list[dict[str, Any]] = [
        {"kind": "train", "initial": None, "outputs": ["weights"], "rounds": 3},
        {"dataset": kept, "initial": {"job": model}},
    ]
    for changes in wrong:
        for ask in (admission.submit, quoting.quote):
            more = (None,) if ask is admission.submit else ()
            with pytest.raises(Refused) as caught:
                ask(market.services, RESEARCHER, request(market, **changes), *more)  # type: ignore[operator]
            assert [each.field for each in caught.value.errors] == ["split"]
    with pytest.raises(Refused, match="initial"):
        submit(market, request(market))


def test_what_is_not_public_is_told_by_no_job(market: Market) -> None:
    declare(market, test_public=False)
    asked = markets.request(f"{market.dataset_id}_2", rounds=1)
    job = run(market, submit(market, asked), Stable())
    with market.database.read() as session:
        assert views.get_job(session, RESEARCHER, job.id).metrics is None


def test_a_policy_knows_the_split_and_what_a_job_begins_with(market: Market) -> None:
    model = trained(market)
    source = markets.policy().replace(
        "approvals contains",
        """refusals contains {
	"code": "public_alone",
	"field": "job.split",
	"message": "only evaluations on the public test records, of released models",
	"limit": "public_test",
} if {
	not of_a_release
}

of_a_release if {
	input.job.split == "public_test"
	input.dataset.public_test_examples > 0
	input.job.initial.kind == "release"
	input.job.initial.id != ""
}

approvals contains""",
    )
    market.activate(source)
    with pytest.raises(Refused, match="policy_denied"):
        submit(market, markets.request(market.dataset_id, rounds=1))
    asked = request(market, initial={"job": model})
    assert quoting.quote(market.services, RESEARCHER, asked).verdict == "allow"
    assert submit(market, asked)


def test_inverse_answers_and_sweep_quotes_refuse_what_nobody_may_begin_with(
    market: Market,
) -> None:
    waiting = submit(market, markets.request(market.dataset_id, rounds=1))
    for initial, field in (
        ({"job": waiting}, "initial.job"),
        ({"job": "job_nobody"}, "initial.job"),
        ({"weights": "weights_nobody"}, "initial.weights"),
    ):
        asked = markets.request(market.dataset_id, initial=initial)
        with pytest.raises(Refused) as caught:
            inverse.solve(market.services, RESEARCHER, asked, "rounds")
        assert [each.field for each in caught.value.errors] == [field]
        with pytest.raises(Refused) as caught:
            sweep_quotes.quote(market.services, RESEARCHER, [asked])
        assert [each.field for each in caught.value.errors] == [f"jobs[0].{field}"]
