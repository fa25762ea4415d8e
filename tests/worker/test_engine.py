"""The flat-ragged engine computes what a slow loop computes, and bounds what a client can do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy_gateway.modelspec import measure
from tests.worker import engine
from worker.task import GRID

pytestmark = pytest.mark.tensorflow

SIZES = [5, 0, 1, 9, 4, 12]
EVERYBODY = np.arange(len(SIZES))


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (engine.LINEAR, {}),
        (engine.LINEAR, {"algorithm": "dp_fedsgd"}),
        (engine.LINEAR, {"examples_per_client": 3}),
        (engine.HIDDEN, {"local_epochs": 3, "clip_norm": 0.05}),
        (engine.HIDDEN, {"client_optimizer": {"name": "adam", "learning_rate": 0.01}}),
        (engine.HIDDEN, {"client_optimizer": {"name": "momentum", "learning_rate": 0.1}}),
        (engine.HIDDEN, {"algorithm": "dp_fedprox", "proximal_mu": 2.0, "local_epochs": 2}),
        (engine.IMAGES, {}),
        (engine.IMAGES, {"algorithm": "dp_fedsgd", "clip_norm": 100.0}),
        (engine.SEQUENCE, {}),
        (engine.SKIP, {}),
    ],
)
def test_sums_agree_with_a_naive_keras_loop(
    tmp_path: Path, model: dict[str, Any], options: dict[str, Any]
) -> None:
    job = engine.task(model, **options)
    clients = engine.store(tmp_path / "store", SIZES)
    federated, weights = engine.engine(job, clients)
    sums = engine.real(job, federated.sum_of(3, EVERYBODY, weights))
    slow = engine.naive(job, clients, EVERYBODY.tolist(), weights, 3)
    # Truncation to the grid takes at most one step of each client and weight.
    steps = len(SIZES) * job.clip_norm / GRID
    np.testing.assert_allclose(sums, slow, rtol=2e-4, atol=steps + 1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"algorithm": "dp_fedsgd"}, {"algorithm": "dp_fedprox", "proximal_mu": 2.0}],
    ids=lambda options: str(options.get("algorithm", "dp_fedavg")),
)
def test_a_batch_that_is_summed_part_by_part_gives_the_same_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    job = engine.task(engine.HIDDEN, batch_size=5, local_epochs=2, **options)
    monkeypatch.setattr(
        "worker.training.local._BATCH_BYTES", 2 * measure(job.model).activation_bytes
    )
    clients = engine.store(tmp_path / "store", SIZES)
    federated, weights = engine.engine(job, clients)
    sums = engine.real(job, federated.sum_of(3, EVERYBODY, weights))
    slow = engine.naive(job, clients, EVERYBODY.tolist(), weights, 3)
    steps = len(SIZES) * job.clip_norm / GRID
    np.testing.assert_allclose(sums, slow, rtol=2e-4, atol=steps + 1e-6)


def test_an_empty_cohort_sums_to_zero(tmp_path: Path) -> None:
    federated, weights = engine.engine(engine.task(), engine.store(tmp_path / "store", SIZES))
    sums = federated.sum_of(0, np.array([], np.int64), weights)
    assert [s.shape for s in sums] == [w.shape for w in weights]
    assert not any(s.any() for s in sums)


@pytest.mark.parametrize("algorithm", ["dp_fedavg", "dp_fedsgd", "dp_fedprox"])
@pytest.mark.parametrize("model", [engine.LINEAR, engine.HIDDEN])
def test_a_huge_client_moves_the_sum_by_at_most_c(
    tmp_path: Path, algorithm: str, model: dict[str, Any]
) -> None:
    features = engine.rows(SIZES)["features"]
    features[-SIZES[-1] :] *= 1e12
    job = engine.task(model, algorithm=algorithm, clip_norm=0.3)
    clients = engine.store(tmp_path / "store", SIZES, features=features)
    federated, weights = engine.engine(job, clients)
    with_it = engine.real(job, federated.sum_of(0, EVERYBODY, weights))
    without = engine.real(job, federated.sum_of(0, EVERYBODY[:-1], weights))
    moved = np.linalg.norm(with_it - without)
    assert 0 < moved <= 0.3 * (1 + 2.0**-18)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
def test_a_client_that_blows_up_contributes_zero_and_stops_nobody(
    tmp_path: Path, poison: float
) -> None:
    features = engine.rows(SIZES)["features"]
    features[-1, :] = poison
    job = engine.task(engine.HIDDEN, local_epochs=3)
    clients = engine.store(tmp_path / "store", SIZES, features=features)
    federated, weights = engine.engine(job, clients)
    alone = federated.sum_of(0, EVERYBODY[-1:], weights)
    assert np.linalg.norm(engine.real(job, alone)) <= job.clip_norm
    if not np.isfinite(poison):
        assert not any(s.any() for s in alone)
    others = federated.sum_of(0, EVERYBODY[:-1], weights)
    everybody = federated.sum_of(0, EVERYBODY, weights)
    for one, rest, whole in zip(alone, others, everybody, strict=True):
        np.testing.assert_array_equal(one + rest, whole)


def test_clipping_in_pieces_gives_the_integers_of_clipping_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from worker.training import federated

    generator = np.random.default_rng(5)
    update = [generator.normal(size=s).astype(np.float32) for s in [(7, 30), (), (3,), (0, 4)]]
    whole = [np.asarray(part) for part in federated.clip_to_grid(update, 0.25)]
    monkeypatch.setattr(federated, "_PIECE", 16)
    parts = [np.asarray(part) for part in federated.clip_to_grid(update, 0.25)]
    for one, other, given_array in zip(whole, parts, update, strict=True):
        assert one.shape == given_array.shape
        np.testing.assert_array_equal(one, other)
    norm = np.sqrt(sum((part.astype(float) ** 2).sum() for part in parts))
    assert 0.999 * GRID < norm <= GRID
    update[0][3, 3] = np.nan
    assert not any(np.asarray(part).any() for part in federated.clip_to_grid(update, 0.25))


def test_labels_and_indices_out_of_range_fail_nothing(tmp_path: Path) -> None:
    words = {
        "input": {"shape": [6], "dtype": "int32"},
        "layers": [
            {"type": "Embedding", "input_dim": 5, "output_dim": 2},
            {"type": "Flatten"},
            {"type": "Dense", "units": 3},
        ],
    }
    count = sum(SIZES)
    features = np.full((count, 6), 2**31 - 1, np.int32)
    labels = np.full(count, -(2**31), np.int32)
    clients = engine.store(tmp_path / "store", SIZES, features=features, label=labels)
    job = engine.task(words)
    federated, weights = engine.engine(job, clients)
    sums = federated.sum_of(0, EVERYBODY, weights)
    assert np.linalg.norm(engine.real(job, sums)) > 0


def test_a_sum_does_not_depend_on_slices_or_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.training import clients as slicing

    job = engine.task(engine.HIDDEN)
    clients = engine.store(tmp_path / "store", SIZES)
    federated, weights = engine.engine(job, clients)
    whole = federated.sum_of(5, EVERYBODY, weights)
    monkeypatch.setattr(slicing, "SLICE_BYTES", 1)
    sliced = federated.sum_of(5, EVERYBODY[::-1].copy(), weights)
    for first, second in zip(whole, sliced, strict=True):
        np.testing.assert_array_equal(first, second)


def test_dropout_is_seeded_by_round_and_client(tmp_path: Path) -> None:
    model = {**engine.HIDDEN, "layers": [*engine.HIDDEN["layers"]]}
    model["layers"].insert(1, {"type": "Dropout", "rate": 0.5})
    job = engine.task(model, batch_size=4096)
    federated, weights = engine.engine(job, engine.store(tmp_path / "store", SIZES))
    first, again, other = (
        engine.real(job, federated.sum_of(n, EVERYBODY, weights)) for n in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_slices_hold_each_client_once_and_at_most_the_cap(tmp_path: Path) -> None:
    from worker.training import clients as slicing

    features = np.arange(sum(SIZES) * 6, dtype=np.float32).reshape(-1, 6)
    clients = engine.store(tmp_path / "store", SIZES, features=features)
    options = {"columns": ("features", "label"), "seed": 0}
    for cap in (3, 100):
        (part,) = slicing.slices(clients, EVERYBODY, cap=cap, round_number=1, **options)
        assert np.diff(part.offsets).tolist() == [min(size, cap) for size in SIZES]
        for client in EVERYBODY:
            start, stop = clients.offsets[client : client + 2]
            own = set(features[start:stop, 0].tolist())
            begin, end = part.offsets[client : client + 2]
            taken = part.features[begin:end, 0].tolist()
            assert len(set(taken)) == len(taken)
            assert set(taken) <= own
    (other,) = slicing.slices(clients, EVERYBODY, cap=100, round_number=2, **options)
    assert other.features.tolist() != part.features.tolist()


def test_an_algorithm_without_an_event_cannot_be_registered() -> None:
    from worker.training.algorithms import registry

    for event in ("", None, "free_lunch"):
        with pytest.raises(ValueError, match="declare"):
            registry.register(registry.Algorithm("new", event, lambda task, model: None))  # type: ignore[arg-type]


def test_the_public_test_set_is_measured(tmp_path: Path) -> None:
    from worker.training import models
    from worker.training.evaluation import Evaluation

    job = engine.task(metrics=("accuracy", "mean_absolute_error"))
    clients = engine.store(tmp_path / "store", SIZES)
    model = models.build(job)
    weights = models.first_weights(job)
    metrics = Evaluation(job, model, clients).metrics(weights)
    data = engine.rows(SIZES)
    logits = data["features"] @ weights[0] + weights[1]
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    chances = exponentials / exponentials.sum(1, keepdims=True)
    labels = data["label"]
    loss = -np.log(chances[np.arange(len(labels)), labels]).mean()
    assert metrics["examples"] == len(labels)
    assert metrics["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["mean_absolute_error"] == pytest.approx(np.abs(logits.argmax(1) - labels).mean())


def test_metrics_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    from worker.training import models
    from worker.training.evaluation import Evaluation

    job = engine.task()
    model = models.build(job)
    weights = [np.full(shape, 3e38, np.float32) for shape in model.shapes]
    metrics = Evaluation(job, model, engine.store(tmp_path / "store", SIZES)).metrics(weights)
    assert "loss" not in metrics
    assert metrics["examples"] == sum(SIZES)
