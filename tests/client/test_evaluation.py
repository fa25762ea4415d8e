"""One call measures a model: free where the owner said public, named numbers where it costs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

import privacy_gateway as pg
from jobs.tables import Job
from privacy_gateway import evaluation
from tests.client.conftest import CLIENTS, PASSWORD, POLICY, House, manifest_of
from tests.support.trainer import Stable
from worker import coordinator
from worker.coordinator import Tools

PUBLIC = 12


@contextmanager
def working(house: House) -> Iterator[None]:
    """A worker that takes whatever is queued; its sums need no TensorFlow."""
    over = threading.Event()
    queued = sa.select(Job.__table__.c.id).where(  # type: ignore[attr-defined]
        Job.__table__.c.status == "queued"  # type: ignore[attr-defined]
    )

    def work() -> None:
        while not over.wait(0.02):
            with house.gateway.services.database.read() as session:
                waiting = list(session.execute(queued).scalars())
            for job_id in waiting:
                coordinator.run(house.gateway.services, job_id, worker="w", tools=Tools(Stable()))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture
def public(house: House, tmp_path: Path) -> str:
    """A data set with test records that its owner declared public."""
    rows = 2 * CLIENTS
    file = tmp_path / "public.npz"
    np.savez(
        file,
        images=np.arange(rows * 4, dtype=np.uint8).reshape(rows, 2, 2),
        labels=np.arange(rows) % 3,
        people=np.repeat(np.arange(CLIENTS), 2),
        shown=np.zeros((PUBLIC, 2, 2), np.uint8),
        named=np.arange(PUBLIC) % 3,
    )
    told = {"test_features": "shown", "test_label": "named", "test_public": True, "name": "open"}
    manifest = manifest_of(house.dataset.view.population) | told
    dataset = house.owner.owner.register_dataset(manifest, file)
    tests = POLICY.with_name("price_cap_test.rego").read_text(encoding="utf-8")
    house.owner.owner.publish_policy(dataset.id, POLICY.read_text(encoding="utf-8"), tests=tests)
    return dataset.id


def test_a_released_model_is_measured_by_one_call(house: House, public: str) -> None:
    view = house.researcher.dataset(public).view
    assert (view.test_examples, view.test_public) == (PUBLIC, True)
    assert not house.dataset.view.test_public
    domain = house.researcher
    with working(house):
        trained = domain.submit(house.job(dataset=public)).wait(60, progress=False)
        before = domain.quote(house.job()).budget_before
        free = domain.evaluate(trained, timeout=60, progress=False)
        assert free == {"accuracy": 0.5}
        assert domain.quote(house.job()).budget_before == before

        bought = domain.evaluate(
            trained.id,
            split="clients",
            clients_per_round=10,
            noise_multiplier=2.0,
            timeout=60,
            progress=False,
        )
        assert {"dp_accuracy_low", "dp_accuracy_high"} <= bought.keys()
        assert domain.quote(house.job()).budget_before > before

        async def twin() -> dict[str, float]:
            url = house.gateway.url
            async with await pg.aio.login("researcher@example.org", PASSWORD, url=url) as other:
                return await other.evaluate(await other.job(trained.id), timeout=60)

        assert asyncio.run(twin()) == free


def test_what_is_missing_is_named_before_anything_is_sent(house: House, public: str) -> None:
    domain = house.researcher
    with working(house):
        trained = domain.submit(house.job(dataset=public)).wait(60, progress=False)
    wrong: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((object(),), {}, "dataset"),
        ((object(), public), {"split": "clients"}, "split"),
        ((trained,), {"split": "clients", "noise_multiplier": 1.0}, "clients_per_round"),
        ((trained,), {"split": "clients", "clients_per_round": 5}, "noise_multiplier"),
        ((trained, house.dataset), {}, "split"),
    ]
    for place, members, field in wrong:
        with pytest.raises(pg.Refused) as caught:
            domain.evaluate(*place, **members)
        assert [error.field for error in caught.value.errors] == [field]
    assert len(domain.jobs()) == 1


@pytest.mark.tensorflow
def test_a_model_of_ones_own_is_uploaded_and_measured_for_nothing(
    house: House, public: str
) -> None:
    import keras

    model = keras.Sequential(
        [keras.layers.Input((2, 2)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.compile(loss="sparse_categorical_crossentropy")
    domain = house.researcher
    body = evaluation.job_of(domain, model, public, metrics=["accuracy"])
    assert body["loss"] == "sparse_categorical_crossentropy"
    assert domain.quote(body).epsilon == 0.0
    with working(house):
        assert domain.evaluate(model, public, timeout=60, progress=False) == {"accuracy": 0.5}
