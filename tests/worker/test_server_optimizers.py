"""Server optimizers against Keras' own, and against the papers where Keras has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from worker.aggregate import ServerOptimizer, ServerState, server_step

STEPS = 25
SHAPES = [(7, 3), (3,)]


def deltas() -> list[list[np.ndarray]]:
    """Noised mean updates of many sizes, float32; some coordinates stay at zero."""
    generator = np.random.default_rng(11)
    # Far above epsilon, which Keras puts before the correction of the bias and the paper behind.
    scales = 10.0 ** generator.uniform(-1, 1, STEPS)
    made = [[generator.normal(size=s).astype(np.float32) * k for s in SHAPES] for k in scales]
    for pair in made:
        pair[0][0] = 0.0
    return [[part.astype(np.float32) for part in pair] for pair in made]


def ours(optimizer: ServerOptimizer) -> np.ndarray:
    state = ServerState([np.full(shape, 0.5, np.float32) for shape in SHAPES])
    for update in deltas():
        state = server_step(state, update, optimizer)
    return np.concatenate([weight.ravel() for weight in state.weights])


@pytest.mark.tensorflow
@pytest.mark.parametrize("momentum", [None, 0.5])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adagrad"])
def test_a_job_of_the_server_is_one_of_keras(name: str, momentum: float | None) -> None:
    import keras

    rate, beta1 = 0.03, 0.9 if momentum is None else momentum
    made: dict[str, Any] = {
        "sgd": lambda: keras.optimizers.SGD(rate),
        "momentum": lambda: keras.optimizers.SGD(rate, momentum=beta1),
        "adam": lambda: keras.optimizers.Adam(rate, beta_1=beta1),
        # Keras begins at 0.1; the paper (Duchi et al. 2011) and FedOpt's default at 0.
        "adagrad": lambda: keras.optimizers.Adagrad(rate, initial_accumulator_value=0.0),
    }
    reference = made[name]()
    variables = [keras.Variable(np.full(shape, 0.5, np.float32)) for shape in SHAPES]
    for update in deltas():
        # The update takes the place of the negative gradient.
        reference.apply([-part for part in update], variables)
    theirs = np.concatenate([np.asarray(variable.value).ravel() for variable in variables])
    given = ours(ServerOptimizer(name, learning_rate=rate, momentum=momentum))  # type: ignore[arg-type]
    np.testing.assert_allclose(given, theirs, rtol=2e-4, atol=2e-6)


def test_yogi_follows_the_paper() -> None:
    """Zaheer et al. 2018, algorithm 2, with Adam's correction of the bias; in float64."""
    rate, beta1, beta2, epsilon = 0.03, 0.9, 0.999, 1e-7
    weights = np.full(24, 0.5)
    mean = square = np.zeros(24)
    for step, update in enumerate(deltas(), 1):
        delta = np.concatenate([part.ravel() for part in update]).astype(np.float64)
        mean = beta1 * mean + (1 - beta1) * delta
        square = square - (1 - beta2) * np.sign(square - delta**2) * delta**2
        root = np.sqrt(np.maximum(square, 0) / (1 - beta2**step)) + epsilon
        weights = weights + rate * mean / (1 - beta1**step) / root
    given = ours(ServerOptimizer("yogi", learning_rate=rate))
    np.testing.assert_allclose(given, weights, rtol=2e-3, atol=1e-5)


def test_they_are_five_different_ways() -> None:
    names = ("sgd", "momentum", "adam", "adagrad", "yogi")
    ends = [ours(ServerOptimizer(name, learning_rate=0.03)).tobytes() for name in names]  # type: ignore[arg-type]
    assert len(set(ends)) == 5
