"""The fused LSTM is Keras' LSTM: outputs, gradients, and the engine's sums with it."""

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
TEXT = {
    "input": {"shape": [6], "dtype": "int32"},
    "layers": [
        {"type": "Embedding", "input_dim": 5, "output_dim": 3},
        {"type": "LSTM", "units": 4, "return_sequences": True},
        {"type": "LSTM", "units": 3},
        {"type": "Dense", "units": 3},
    ],
}


@settings(max_examples=12, deadline=None)
@given(
    batch=st.integers(1, 5),
    steps=st.integers(1, 9),
    channels=st.integers(1, 6),
    units=st.integers(1, 9),
    whole=st.booleans(),
    size=st.sampled_from([0.1, 1.0, 5.0]),
    seed=st.integers(0, 2**31),
)
def test_outputs_and_all_gradients_are_those_of_keras(
    batch: int, steps: int, channels: int, units: int, whole: bool, size: float, seed: int
) -> None:
    import keras
    import tensorflow as tf

    from worker.training import fused

    generator = np.random.default_rng(seed)
    shapes = [(batch, steps, channels), (channels, 4 * units), (units, 4 * units), (4 * units,)]
    given_arrays = [(size * generator.normal(size=s)).astype(np.float32) for s in shapes]
    shape = (batch, steps, units) if whole else (batch, units)
    upstream = generator.normal(size=shape).astype(np.float32)
    answers = []
    for kind in (keras.layers.LSTM, fused.LSTM):
        layer = kind(units, return_sequences=whole)
        layer.build(shapes[0])
        # Plain tensors in, so that the gradients reach them.
        tensors = [tf.constant(array) for array in given_arrays]
        states = [variable.value for variable in layer.non_trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            outputs, _ = layer.stateless_call(tensors[1:], states, tensors[0])
            loss = tf.reduce_sum(outputs * upstream)
        answers.append([outputs, *tape.gradient(loss, tensors)])
    for keras_own, ours in zip(*answers, strict=True):
        scale = max(1.0, float(np.abs(keras_own).max()))
        np.testing.assert_allclose(ours, keras_own, rtol=1e-4, atol=2e-5 * scale)


@pytest.mark.parametrize("options", [{}, {"algorithm": "dp_fedprox", "proximal_mu": 2.0}])
def test_sums_of_stacked_recurrent_layers_agree_with_a_naive_keras_loop(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    words = np.random.default_rng(3).integers(0, 5, (sum(SIZES), 6)).astype(np.int32)
    clients = engine.store(tmp_path / "store", SIZES, features=words)
    job = engine.task(TEXT, clip_norm=0.05, **options)
    federated, weights = engine.engine(job, clients)
    sums = engine.real(job, federated.sum_of(3, np.arange(len(SIZES)), weights))
    slow = engine.naive(job, clients, list(range(len(SIZES))), weights, 3)
    np.testing.assert_allclose(sums, slow, rtol=2e-4, atol=len(SIZES) * job.clip_norm / GRID + 1e-6)


def test_records_that_are_no_numbers_spoil_their_own_client_only(tmp_path: Path) -> None:
    features = engine.rows(SIZES)["features"]
    features[-SIZES[-1] :] = np.nan
    clients = engine.store(tmp_path / "store", SIZES, features=features)
    federated, weights = engine.engine(engine.task(engine.SEQUENCE), clients)
    everybody, others = np.arange(len(SIZES)), np.arange(len(SIZES) - 1)
    for whole, rest in zip(
        federated.sum_of(0, everybody, weights), federated.sum_of(0, others, weights), strict=True
    ):
        np.testing.assert_array_equal(whole, rest)
    assert any(part.any() for part in whole.reshape(1, -1))
