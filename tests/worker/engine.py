"""Small stores, tasks and a slow but obvious federated round to compare the engine with."""

from pathlib import Path
from typing import Any

import numpy as np

from kit import ragged
from kit.ragged import RaggedStore
from worker.task import GRID, TrainingTask

LINEAR = {
    "input": {"shape": [6]},
    "layers": [{"type": "Dense", "units": 3, "activation": "softmax"}],
}
HIDDEN = {
    "input": {"shape": [6]},
    "layers": [
        {"type": "Dense", "units": 8, "activation": "relu"},
        {"type": "Dense", "units": 3},
    ],
}
IMAGES = {
    "input": {"shape": [6, 1, 1]},
    "layers": [
        {"type": "Conv2D", "filters": 4, "kernel_size": [3, 1], "activation": "relu"},
        {"type": "MaxPooling2D", "pool_size": [2, 1]},
        {"type": "Flatten"},
        {"type": "Dense", "units": 3},
    ],
}
SEQUENCE = {
    "input": {"shape": [6, 1]},
    "layers": [{"type": "LSTM", "units": 4}, {"type": "Dense", "units": 3}],
}
SKIP = {
    "input": {"shape": [6]},
    "layers": [
        {"type": "Dense", "units": 4, "activation": "tanh"},
        {"type": "Dense", "units": 4, "inputs": [0]},
        {"type": "Dense", "units": 4, "inputs": [-1], "use_bias": False},
        {"type": "Add", "inputs": [1, 2]},
        {"type": "LayerNormalization"},
        {"type": "Concatenate", "inputs": [4, 0]},
        {"type": "Dense", "units": 3},
    ],
}


def task(model: dict[str, Any] = LINEAR, **options: Any) -> TrainingTask:
    """A task with small defaults."""
    value = {"algorithm": "dp_fedavg", "clip_norm": 0.5, "batch_size": 4, "model": model}
    return TrainingTask.model_validate(value | options)


def rows(sizes: list[int], *, seed: int = 7) -> dict[str, np.ndarray]:
    """Learnable rows: three classes around three centres."""
    generator = np.random.default_rng(seed)
    count = sum(sizes)
    labels = generator.integers(0, 3, count)
    centres = generator.normal(size=(3, 6))
    features = centres[labels] + generator.normal(size=(count, 6))
    return {"features": features.astype(np.float32), "label": labels.astype(np.int32)}


def store(directory: Path, sizes: list[int], **changes: np.ndarray) -> RaggedStore:
    """A store of such rows, some columns replaced."""
    ragged.write(directory, rows(sizes) | changes, sizes)
    return RaggedStore.open(directory)


def engine(job: TrainingTask, clients: RaggedStore) -> tuple[Any, list[np.ndarray]]:
    """The real engine in this process, and its first weights."""
    from worker.training import models
    from worker.training.algorithms import dp_fedavg, dp_fedprox, dp_fedsgd, dp_ftrl  # noqa: F401
    from worker.training.algorithms.registry import algorithm_of
    from worker.training.federated import FederatedRound

    model = models.build(job)
    local = algorithm_of(job).local(job, model)
    return FederatedRound(job, clients, local, model.shapes), models.first_weights(job)


def real(job: TrainingTask, sums: list[np.ndarray]) -> np.ndarray:
    """A sum on the grid as real numbers, flat."""
    flat = np.concatenate([part.ravel() for part in sums])
    return flat.astype(np.float64) * job.clip_norm / GRID


def naive(
    job: TrainingTask,
    clients: RaggedStore,
    cohort: list[int],
    weights: list[np.ndarray],
    number: int,
) -> np.ndarray:
    """The same round one client at a time, in eager Keras, clipped in float64."""
    from worker.training import clients as slicing

    total = np.zeros(sum(w.size for w in weights))
    for client in cohort:
        for part in slicing.slices(
            clients,
            np.array([client]),
            columns=("features", "label"),
            cap=job.examples_per_client,
            seed=job.initial_seed,
            round_number=number,
        ):
            update = _one_client(job, part.features, part.labels, weights)
            flat = np.concatenate([u.ravel() for u in update]).astype(np.float64)
            norm = np.linalg.norm(flat)
            total += flat * min(1.0, job.clip_norm / norm) if norm > 0 else 0.0
    return total


def _one_client(
    job: TrainingTask, x: np.ndarray, y: np.ndarray, weights: list[np.ndarray]
) -> list[np.ndarray]:
    """Eager training of one client; the raw update."""
    import tensorflow as tf

    from worker.training.models import build_keras

    model, mine = build_keras(job.model, logits_for=job.loss)
    for variable, value in zip(mine, weights, strict=True):
        variable.assign(value)
    whole = job.algorithm == "dp_fedsgd"
    batch = max(1, len(x)) if whole else job.batch_size
    optimizer = _optimizer(job)
    for _ in range(1 if whole else job.local_epochs):
        for start in range(0, len(x), batch):
            part = slice(start, start + batch)
            inputs = tf.reshape(tf.constant(x[part]), [-1, *job.model.input.shape])
            with tf.GradientTape() as tape:
                logits = model(inputs, training=True)
                loss = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(y[part], logits)
                )
            gradients = tape.gradient(loss, [variable.value for variable in mine])
            if job.algorithm == "dp_fedprox":
                pairs = zip(gradients, mine, weights, strict=True)
                gradients = [g + job.proximal_mu * (v.value - w) for g, v, w in pairs]
            optimizer.apply(gradients, mine)
    return [np.asarray(v.value) - w for v, w in zip(mine, weights, strict=True)]


def _optimizer(job: TrainingTask) -> Any:
    """Keras' own optimizer of the same name."""
    import keras

    rate = job.client_optimizer.learning_rate
    return {
        "sgd": lambda: keras.optimizers.SGD(rate),
        "momentum": lambda: keras.optimizers.SGD(rate, momentum=0.9),
        "adam": lambda: keras.optimizers.Adam(rate),
    }[job.client_optimizer.name]()
