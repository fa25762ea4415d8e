"""Models trained under a real budget are useful: accuracy on people never seen, on real data.

The noise multiplier is the least that the ledger's filter admits for one job on a fresh budget, so
the accuracy below is really bought with the ε it names.
"""

from pathlib import Path

import numpy as np
import pytest

from accounting.budget import terms_of
from accounting.curve import price
from accounting.plan import TrainingPlan
from kit import ragged
from worker.aggregate import ServerOptimizer, ServerState, run_round
from worker.launcher import Sandbox
from worker.noise import NoiseSource
from worker.sampling import draw_cohort
from worker.task import TrainingTask

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

EPSILON, DELTA = 8, 1e-4
WRITERS, ROUNDS, NOISE, CLIP = 539, 30, 3.36, 0.5


def _stores(data: Path, directory: Path) -> None:
    """Train split by writer, test split of other writers."""
    with np.load(data, allow_pickle=False) as archive:
        order = np.argsort(archive["writer_train"], kind="stable")
        sizes = np.unique(archive["writer_train"], return_counts=True)[1]
        splits = {
            "train": (archive["x_train"][order], archive["y_train"][order], sizes),
            "test": (archive["x_test"], archive["y_test"], np.ones(10_000, np.int64)),
        }
    for name, (images, labels, lengths) in splits.items():
        rows = {"features": images, "label": labels.astype(np.int32)}
        ragged.write(directory / name, rows, lengths, scales={"features": 1 / 255})


def _fits(plan: TrainingPlan) -> bool:
    cost = price(plan.mechanism).total(plan.charge_units)
    limits = terms_of(EPSILON * 10**9, DELTA).limits
    return any(spent <= limit for spent, limit in zip(cost, limits, strict=True))


def test_a_linear_model_of_writers_within_epsilon_8(shared_data: Path, tmp_path: Path) -> None:
    plan = TrainingPlan(WRITERS, WRITERS, ROUNDS, NOISE, "none", CLIP, "dp_fedsgd")
    assert _fits(plan)
    assert not _fits(plan.changed(noise_multiplier=NOISE - 0.05))
    _stores(shared_data / "mnist_by_writer.npz", tmp_path)
    layer = {"type": "Dense", "units": 10, "activation": "softmax", "kernel_initializer": "zeros"}
    job = TrainingTask.model_validate(
        {
            "model": {"input": {"shape": [784]}, "layers": [layer]},
            "algorithm": "dp_fedsgd",
            "client_optimizer": {"name": "sgd", "learning_rate": 1.0},
            "clip_norm": CLIP,
            "shards": 2,
        }
    )
    source = NoiseSource()
    with Sandbox(job, tmp_path / "train", test_store=tmp_path / "test") as sandbox:
        state = ServerState(sandbox.initial_weights())
        for number in range(ROUNDS):
            cohort = draw_cohort("none", WRITERS, WRITERS, source)
            state = run_round(
                state,
                sandbox.round(number, cohort, state.weights),
                clients=len(cohort),
                clip_norm=CLIP,
                noise_multiplier=NOISE,
                denominator=WRITERS,
                optimizer=ServerOptimizer("momentum", 1.5, 0.9),
                source=source,
            )
        assert sandbox.evaluate(state.weights)["accuracy"] >= 0.88
