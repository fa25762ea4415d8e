"""Max-pooling by folds is Keras' max-pooling, to the bit, and where numbers are equal too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker import engine
from worker.task import GRID

pytestmark = pytest.mark.tensorflow

SIZES = [5, 0, 1, 9]


def images(*, pool: dict[str, Any], convolution: dict[str, Any]) -> dict[str, Any]:
    """A small network with one convolution and one pooling layer."""
    return {
        "input": {"shape": [6, 5, 2]},
        "layers": [
            {"type": "Conv2D", "filters": 4, "kernel_size": [3, 2], "padding": "same"}
            | convolution,
            {"type": "MaxPooling2D"} | pool,
            {"type": "Flatten"},
            {"type": "Dense", "units": 3},
        ],
    }


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(0, 3),
    sides=st.lists(st.integers(1, 9), min_size=1, max_size=2),
    windows=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    channels=st.integers(1, 3),
    values=st.sampled_from([2, 5, 1000]),
    seed=st.integers(0, 2**31),
)
def test_output_and_gradient_are_those_of_keras(
    batch: int, sides: list[int], windows: tuple[int, int], channels: int, values: int, seed: int
) -> None:
    import keras
    import tensorflow as tf

    from worker.training import pooling

    sizes = [min(size, side) for size, side in zip(windows, sides, strict=False)]
    generator = np.random.default_rng(seed)
    # Few values, so that many windows have several largest numbers.
    rows = tf.constant(
        generator.integers(-values, values, (batch, *sides, channels)).astype(np.float32)
    )
    kind = keras.layers.MaxPooling1D if len(sides) == 1 else keras.layers.MaxPooling2D
    theirs = kind(sizes[0] if len(sides) == 1 else sizes)
    answers = []
    for pool in (theirs, lambda given: pooling.max_pool(given, sizes)):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            pooled = pool(rows)
            upstream = np.arange(1, np.size(pooled) + 1, dtype=np.float32).reshape(pooled.shape)
            loss = tf.reduce_sum(pooled * upstream)
        answers.append([pooled.numpy(), tape.gradient(loss, rows).numpy()])
    for keras_own, ours in zip(*answers, strict=True):
        np.testing.assert_array_equal(ours, keras_own)


@pytest.mark.parametrize(
    ("pool", "taken", "late"),
    [
        ({"pool_size": [2, 2]}, True, True),
        ({"pool_size": [2, 5], "padding": "same"}, True, True),
        ({"pool_size": [2, 2], "padding": "same"}, False, False),
        ({"pool_size": [2, 2], "strides": [1, 2]}, False, False),
    ],
)
@pytest.mark.parametrize("constant", [False, True], ids=["random", "one colour"])
def test_sums_agree_with_a_naive_keras_loop(
    tmp_path: Path, pool: dict[str, Any], taken: bool, late: bool, constant: bool
) -> None:
    from worker.training import models, pooling

    count = sum(SIZES)
    features = np.random.default_rng(1).normal(size=(count, 60)).astype(np.float32)
    if constant:
        features[:] = 1.0
    clients = engine.store(tmp_path / "store", SIZES, features=features)
    job = engine.task(
        images(pool=pool, convolution={"activation": "relu"}), clip_norm=0.3, local_epochs=2
    )
    federated, weights = engine.engine(job, clients)
    sums = engine.real(job, federated.sum_of(3, np.arange(len(SIZES)), weights))
    slow = engine.naive(job, clients, list(range(len(SIZES))), weights, 3)
    np.testing.assert_allclose(sums, slow, rtol=2e-4, atol=len(SIZES) * job.clip_norm / GRID + 1e-6)

    model, _ = models.build_keras(job.model)
    pooling.take_over(model)
    (layer,) = (one for one in model.layers if one.name.startswith("max_pooling"))
    assert isinstance(layer, pooling.MaxPooling2D) == taken
    assert getattr(layer, "late", False) == late


@pytest.mark.parametrize(
    "layers",
    [
        # The convolution is read before its maximum, too.
        [
            {"type": "Conv2D", "filters": 2, "kernel_size": [2, 2], "activation": "relu"},
            {"type": "MaxPooling2D"},
            {"type": "Flatten"},
            {"type": "Flatten", "inputs": [0]},
            {"type": "Concatenate", "inputs": [2, 3]},
            {"type": "Dense", "units": 3},
        ],
        # An activation of another kind stays where it is.
        [
            {"type": "Conv2D", "filters": 2, "kernel_size": [2, 2], "activation": "tanh"},
            {"type": "MaxPooling2D"},
            {"type": "Flatten"},
            {"type": "Dense", "units": 3},
        ],
        # Nothing before it.
        [{"type": "MaxPooling2D"}, {"type": "Flatten"}, {"type": "Dense", "units": 3}],
    ],
    ids=["read twice", "tanh", "first"],
)
def test_an_activation_that_is_needed_before_the_maximum_stays_there(
    tmp_path: Path, layers: list[dict[str, Any]]
) -> None:
    features = np.random.default_rng(1).normal(size=(sum(SIZES), 60)).astype(np.float32)
    clients = engine.store(tmp_path / "store", SIZES, features=features)
    model = {"input": {"shape": [6, 5, 2]}, "layers": layers}
    job = engine.task(model, clip_norm=0.3, local_epochs=2)
    federated, weights = engine.engine(job, clients)
    sums = engine.real(job, federated.sum_of(3, np.arange(len(SIZES)), weights))
    slow = engine.naive(job, clients, list(range(len(SIZES))), weights, 3)
    np.testing.assert_allclose(sums, slow, rtol=2e-4, atol=len(SIZES) * job.clip_norm / GRID + 1e-6)
