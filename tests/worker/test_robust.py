"""Robust aggregators: right on the attack bench, and not to be had in a private job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from benchmarks import aggregators
from benchmarks.attacks import flat, flipped_store, one_by_one
from kit.ragged import RaggedStore
from privacy_gateway import aggregation, canonical, schemas
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import JobRequest
from tests.support import market
from tests.worker import engine
from worker.aggregate import check_sum
from worker.task import GRID

NORMAL = np.array([[1.0, 2.0], [1.1, 2.1], [0.9, 1.9], [1.0, 2.0], [1.05, 1.95]])
WITH_A_LIAR = np.concatenate([NORMAL, [[-1e6, 1e6]]])


@pytest.mark.parametrize("name", aggregation.WITHOUT_SENSITIVITY)
def test_a_rule_without_sensitivity_is_refused_with_its_reason(name: str) -> None:
    body = market.body("dst_1")
    body["algorithm"] = {**body["algorithm"], "aggregator": name}

    with pytest.raises(Refused) as refused:
        schemas.parse(JobRequest, body)

    (fault,) = refused.value.errors
    assert (refused.value.code, fault.field, fault.value) == (
        "invalid_request",
        "algorithm.aggregator",
        name,
    )
    assert "no bound on what one person changes" in fault.message


def test_asking_for_the_sum_asks_for_what_one_gets_anyway() -> None:
    body = market.body("dst_1")
    named = {**body, "algorithm": {**body["algorithm"], "aggregator": "sum"}}
    digests = {
        canonical.digest(schemas.parse(JobRequest, each).model_dump(mode="json"), floats=True)
        for each in (body, named)
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    "rule", [aggregators.coordinate_median, aggregators.trimmed_mean, aggregators.krum]
)
def test_one_liar_moves_a_mean_and_no_robust_rule(rule: aggregators.Aggregator) -> None:
    honest = NORMAL.mean(axis=0)
    assert np.linalg.norm(aggregators.average(WITH_A_LIAR) - honest) > 1e5
    assert np.linalg.norm(rule(WITH_A_LIAR) - honest) < 0.3


def test_krum_gives_an_update_that_somebody_sent() -> None:
    assert aggregators.krum(WITH_A_LIAR).tolist() in NORMAL.tolist()


@given(
    arrays.arrays(
        np.float64,
        st.tuples(st.integers(0, 5), st.integers(1, 7)),
        elements=st.floats(allow_nan=True, allow_infinity=True),
    ),
    st.sampled_from([0.01, 0.5, 3.0]),
)
def test_whatever_a_liar_sends_the_worker_accepts_and_bounds(sent: np.ndarray, clip: float) -> None:
    total = aggregators.clipped_to_grid(sent, clip)

    check_sum([total], [total.shape], len(sent))
    for row in sent:
        alone = aggregators.clipped_to_grid(row[None], clip)
        assert np.linalg.norm(alone) <= GRID


@pytest.mark.tensorflow
def test_the_bound_on_liars_is_the_engines_own(tmp_path: Path) -> None:
    import tensorflow as tf

    from worker.training.federated import clip_to_grid

    rows = np.random.default_rng(3).normal(size=(20, 11)).astype(np.float32)
    rows *= np.geomspace(1e-4, 1e4, 20, dtype=np.float32)[:, None]
    expected = sum(
        clip_to_grid([tf.constant(row)], 0.5)[0].numpy().astype(np.int64) for row in rows
    )

    found = aggregators.clipped_to_grid(rows.astype(np.float64), 0.5)

    # Sums of squares may be added in another order: one step of truncation a client.
    assert np.abs(found - expected).max() <= len(rows)


@pytest.mark.tensorflow
def test_updates_one_by_one_add_up_to_the_cohorts_sum(tmp_path: Path) -> None:
    from worker.launcher import Sandbox

    store = engine.store(tmp_path / "store", [3, 0, 5, 4])
    task = engine.task(engine.LINEAR, algorithm="dp_fedsgd")
    everybody = np.arange(store.clients, dtype=np.int64)
    with Sandbox(task, tmp_path / "store") as sandbox:
        weights = sandbox.initial_weights()
        rows = one_by_one(sandbox, everybody, 1, weights)
        total = flat(sandbox.round(1, everybody, weights)) * task.clip_norm / GRID
    assert rows.shape == (4, 21)
    assert np.allclose(rows.sum(axis=0), total, atol=1e-12)


def test_flipped_people_have_their_own_features_and_turned_labels(tmp_path: Path) -> None:
    store = engine.store(tmp_path / "store", [2, 3])
    flipped = RaggedStore.open(flipped_store(tmp_path / "store", tmp_path / "flipped"))

    assert np.array_equal(flipped.column("features"), store.column("features"))
    assert np.array_equal(flipped.column("label"), 9 - np.array(store.column("label")))
    assert flipped.offsets.tolist() == store.offsets.tolist()
