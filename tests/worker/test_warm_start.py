"""Jobs that begin with uploaded weights or an earlier release: the same model, and no price."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from jobs import admission, quoting, settlement, starting_weights
from jobs.principal import Principal
from jobs.tables import Job, JobRelease
from kit import tensors
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway.errors import Refused
from tests.support import market as support
from tests.support.market import RESEARCHER, Market
from tests.support.trainer import Stable
from worker import coordinator
from worker.coordinator import Tools
from worker.launcher import FailureCode, SandboxFailed
from worker.noise import NoiseSource

KEY = bytes(range(32))
START = [np.arange(12, dtype=np.float32).reshape(4, 3), np.array([7, 8, 9], np.float32)]
COLLEAGUE = Principal("usr_eve", "eve@example.org", "researcher")


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with support.engine(processes=1) as made:
        yield made


@pytest.fixture
def market(database: Database, engine: EmbeddedEngine, tmp_path: Path) -> Market:
    return support.open_market(database, engine, tmp_path)


def uploaded(market: Market, arrays: list[Any] = START) -> str:
    data = tensors.dump({f"weight_{n:04d}": array for n, array in enumerate(arrays)})
    upload = starting_weights.read(data, parameters=1000)
    with market.database.unit_of_work() as session:
        row = starting_weights.keep(
            session, RESEARCHER, upload, most_stored=10_000, now=market.clock()
        )
        return str(row.id)


def submit(market: Market, **changes: Any) -> str:
    request = support.request(market.dataset_id, **({"rounds": 1} | changes))
    return admission.submit(market.services, RESEARCHER, request, None).job.id


def run(market: Market, job_id: str, stable: Stable | None = None) -> list[Any]:
    """Its released weights."""
    tools = Tools(open_trainer=stable or Stable(), noise=lambda: NoiseSource(KEY))
    assert coordinator.run(market.services, job_id, worker="w1", tools=tools) == "ended"
    with market.database.read() as session:
        released = settlement.result(session, RESEARCHER, job_id)
    return list(tensors.load(released.data).values())


def digests(market: Market, job_id: str) -> list[str]:
    with market.database.read() as session:
        query = sa.select(JobRelease.digest).where(JobRelease.job_id == job_id)
        return list(session.scalars(query.order_by(JobRelease.round)))


def model_of_receipt(market: Market, job_id: str) -> dict[str, Any]:
    with market.database.read() as session:
        found: dict[str, Any] = settlement.receipt(session, RESEARCHER, job_id)["model"]
    return found


def test_training_goes_on_from_uploaded_weights(market: Market) -> None:
    from_zero = run(market, submit(market))
    weights_id, stable = uploaded(market), Stable()
    job_id = submit(market, initial={"weights": weights_id})
    moved = run(market, job_id, stable)

    for begun, zero, released in zip(START, from_zero, moved, strict=True):
        np.testing.assert_allclose(released, begun + zero, rtol=0, atol=1e-5)
    assert not any(trainer.gave_weights for trainer in stable.made)
    assert model_of_receipt(market, job_id)["initial"] == {
        "kind": "upload", "weights": weights_id, "sha256": weights_id.removeprefix("wts_"),
    }  # fmt: skip


def test_training_goes_on_from_an_earlier_release_at_the_same_price(market: Market) -> None:
    first = submit(market, rounds=2)
    begun, zero = run(market, first), run(market, submit(market))
    second = submit(market, initial={"job": first, "round": 2})
    moved = run(market, second)

    np.testing.assert_allclose(moved[0], begun[0] + zero[0], rtol=0, atol=1e-5)
    told = model_of_receipt(market, second)["initial"]
    assert told["sha256"] == model_of_receipt(market, first)["sha256"]
    assert (told["kind"], told["job"], told["round"]) == ("release", first, 2)
    cold = support.request(market.dataset_id, rounds=1)
    warm = support.request(market.dataset_id, rounds=1, initial={"job": first})
    prices = [quoting.quote(market.services, RESEARCHER, body).epsilon for body in (cold, warm)]
    assert prices[0] == prices[1]


def test_an_interrupted_job_goes_on_from_its_own_release(market: Market) -> None:
    begun = {"initial": {"weights": uploaded(market)}}
    straight, halting = submit(market, rounds=3, **begun), submit(market, rounds=10, **begun)
    run(market, straight)
    failing = {2}

    def crash(round_number: int) -> None:
        if round_number in failing:
            failing.clear()
            raise SandboxFailed(FailureCode.CRASHED)

    tools = Tools(open_trainer=Stable(crash), noise=lambda: NoiseSource(KEY))
    assert coordinator.run(market.services, halting, worker="w1", tools=tools) == "returned"
    run(market, halting)
    assert digests(market, halting)[:3] == digests(market, straight)


def test_a_request_without_it_is_written_as_it_always_was(market: Market) -> None:
    job_id = submit(market)
    with market.database.read() as session:
        assert "initial" not in json.loads(session.get_one(Job, job_id).request)
    run(market, job_id)
    assert "initial" not in model_of_receipt(market, job_id)


def test_what_one_may_not_have_or_does_not_fit_is_refused_by_name(market: Market) -> None:
    done, waiting = submit(market, rounds=2), submit(market)
    run(market, done)
    mine, small = uploaded(market), uploaded(market, [np.ones(3, np.float32)])
    wrong: list[tuple[Principal, dict[str, Any], str]] = [
        (RESEARCHER, {"weights": "wts_nothing"}, "initial.weights"),
        (COLLEAGUE, {"weights": mine}, "initial.weights"),
        (RESEARCHER, {"weights": small}, "initial.weights"),
        (RESEARCHER, {"job": waiting}, "initial.job"),
        (COLLEAGUE, {"job": done}, "initial.job"),
        (RESEARCHER, {"job": done, "round": 1}, "initial.round"),
        (RESEARCHER, {"job": done, "weights": mine}, "initial"),
        (RESEARCHER, {"weights": mine, "round": 1}, "initial"),
        (RESEARCHER, {}, "initial"),
    ]
    for who, initial, field in wrong:
        with pytest.raises(Refused) as caught:
            request = support.request(market.dataset_id, rounds=1, initial=initial)
            admission.submit(market.services, who, request, None)
        assert (caught.value.code, caught.value.errors[0].field) == ("invalid_request", field)


def test_an_upload_that_a_job_waits_for_is_not_removed(market: Market) -> None:
    weights_id = uploaded(market)
    job_id = submit(market, initial={"weights": weights_id})
    with market.database.unit_of_work() as session, pytest.raises(Refused, match="conflict"):
        starting_weights.remove(session, RESEARCHER, weights_id)
    run(market, job_id)
    with market.database.unit_of_work() as session:
        starting_weights.remove(session, RESEARCHER, weights_id)
    assert model_of_receipt(market, job_id)["initial"]["weights"] == weights_id


def test_a_job_whose_weights_are_gone_fails_without_a_charge(market: Market) -> None:
    weights_id = uploaded(market)
    job_id = submit(market, initial={"weights": weights_id})
    with market.database.unit_of_work() as session:
        session.execute(starting_weights.STARTING_WEIGHTS.delete())
    stable = Stable()
    tools = Tools(open_trainer=stable)
    for _ in range(market.services.settings.maximum_attempts):
        coordinator.run(market.services, job_id, worker="w1", tools=tools)
    with market.database.read() as session:
        job = session.get_one(Job, job_id)
        assert (job.status, job.rounds_charged, stable.openings) == ("failed", 0, 0)
