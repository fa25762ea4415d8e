"""Keras models become data without a loss, or a named layer says why not; arithmetic is Keras'."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_gateway import modelspec
from privacy_gateway.errors import Refused
from privacy_gateway.keras_converter import spec_of_keras

pytestmark = pytest.mark.tensorflow

SEQUENCES = {"input": {"shape": [7, 3]}, "rank": 2}
IMAGES = {"input": {"shape": [9, 8, 4]}, "rank": 3}
VECTORS = {"input": {"shape": [12]}, "rank": 1}

_few = st.integers(1, 4)
_padding = st.sampled_from(["valid", "same"])
_activation = st.sampled_from(["linear", "relu", "tanh", "gelu", "softmax"])


def _layer(name: str, **options: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(name), **options})


def _pair(strategy: st.SearchStrategy[int]) -> st.SearchStrategy[list[int]]:
    return st.tuples(strategy, strategy).map(list)


_ANY = [
    _layer("Dense", units=_few, activation=_activation, use_bias=st.booleans()),
    _layer("Dropout", rate=st.sampled_from([0.0, 0.5])),
    _layer("Activation", activation=_activation),
    _layer("LayerNormalization"),
]
_BY_RANK = {
    1: _ANY,
    2: [
        *_ANY,
        _layer(
            "Conv1D",
            filters=_few,
            kernel_size=_few,
            strides=_few,
            padding=st.sampled_from(["valid", "same", "causal"]),
            use_bias=st.booleans(),
        ),
        _layer("MaxPooling1D", pool_size=_few, strides=st.none() | _few, padding=_padding),
        _layer("AveragePooling1D", pool_size=_few, padding=_padding),
        _layer("LSTM", units=_few, return_sequences=st.booleans()),
        _layer("GRU", units=_few, return_sequences=st.booleans()),
        _layer("SimpleRNN", units=_few, return_sequences=st.booleans()),
        _layer("GlobalMaxPooling1D"),
        _layer("GlobalAveragePooling1D"),
        _layer("GroupNormalization", groups=st.just(1)),
    ],
    3: [
        *_ANY,
        _layer(
            "Conv2D",
            filters=_few,
            kernel_size=_pair(_few),
            strides=st.integers(1, 2),
            padding=_padding,
            use_bias=st.booleans(),
        ),
        _layer(
            "DepthwiseConv2D",
            kernel_size=_few,
            strides=st.integers(1, 2),
            padding=_padding,
            depth_multiplier=_few,
            use_bias=st.booleans(),
        ),
        _layer("MaxPooling2D", pool_size=_pair(_few), padding=_padding),
        _layer("AveragePooling2D", pool_size=_few, strides=st.integers(1, 2)),
        _layer("GlobalMaxPooling2D"),
        _layer("GlobalAveragePooling2D"),
        _layer("Flatten"),
    ],
}


@st.composite
def specifications(draw: st.DrawFn) -> modelspec.ModelSpec:
    """A random chain of layers that fit, over vectors, sequences or images."""
    start = draw(st.sampled_from([VECTORS, SEQUENCES, IMAGES]))
    rank, layers = start["rank"], []
    for _ in range(draw(st.integers(1, 4))):
        layer = draw(st.one_of(_BY_RANK[rank]))
        try:
            spec = modelspec.parse({"input": start["input"], "layers": [*layers, layer]})
        except Refused:
            continue
        layers.append(layer)
        rank = len(modelspec.measure(spec).output_shape)
    if not layers:
        layers = [{"type": "Activation", "activation": "relu"}]
    return modelspec.parse({"input": start["input"], "layers": layers})


@given(spec=specifications())
@settings(max_examples=40)
def test_arithmetic_is_that_of_keras_and_conversion_comes_back(spec: modelspec.ModelSpec) -> None:
    from worker.training.models import build_keras

    model, _ = build_keras(spec)
    size = modelspec.measure(spec)
    assert [tuple(w.shape) for w in model.weights] == list(size.weight_shapes)
    assert model.count_params() == size.parameters
    assert model.output_shape[1:] == size.output_shape
    if size.parameters:
        assert spec_of_keras(model).fingerprint == spec.fingerprint


def _sequential(*layers: Any, shape: tuple[int, ...] = (784,)) -> Any:
    import keras

    return keras.Sequential([keras.Input(shape), *layers])


def test_a_sequential_model_is_converted() -> None:
    from keras import layers

    model = _sequential(
        layers.Reshape((28, 28, 1)),
        layers.Conv2D(4, 3, activation="relu", kernel_initializer="he_normal"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dropout(0.25),
        layers.Dense(10, activation="softmax", kernel_initializer="zeros"),
    )
    spec = spec_of_keras(model)
    assert [layer.type for layer in spec.layers] == [
        "Reshape",
        "Conv2D",
        "MaxPooling2D",
        "Flatten",
        "Dropout",
        "Dense",
    ]
    assert spec.layers[-1].kernel_initializer == "zeros"
    assert modelspec.measure(spec).parameters == model.count_params()


def test_a_graph_keeps_its_wiring_and_the_order_of_weights() -> None:
    import keras
    from keras import layers

    entry = keras.Input((6,))
    first = layers.Dense(4, activation="tanh")(entry)
    second = layers.Dense(4)(first)
    third = layers.Dense(4, use_bias=False)(entry)
    joined = layers.Concatenate()([layers.Add()([second, third]), first])
    model = keras.Model(entry, layers.Dense(3)(joined))
    spec = spec_of_keras(model)
    assert [tuple(w.shape) for w in model.weights] == list(modelspec.measure(spec).weight_shapes)

    from worker.training.models import build_keras

    rebuilt, order = build_keras(spec)
    by_id = {id(w): w for w in rebuilt.trainable_weights}
    for key, value in zip(order, model.get_weights(), strict=True):
        by_id[key].assign(value)
    x = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    np.testing.assert_allclose(rebuilt(x), model(x), rtol=1e-6)


def test_whole_number_input_goes_through_an_embedding() -> None:
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(90, 8),
            layers.LSTM(4),
            layers.Dense(90),
        ]
    )
    assert spec_of_keras(model).input.dtype == "int32"


def _refused(model: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        spec_of_keras(model)
    assert caught.value.code == "model_refused"
    return caught.value


@pytest.mark.parametrize(
    ("make", "field", "says"),
    [
        (lambda kl: kl.BatchNormalization(), "layers[1]", "BatchNormalization keeps"),
        (lambda kl: kl.Lambda(lambda x: x), "layers[1]", "Lambda carries code"),
        (lambda kl: kl.UnitNormalization(), "layers[1]", "not on the list"),
        (lambda kl: kl.Dense(3, kernel_regularizer="l2"), "layers[1]", "kernel_regularizer"),
        (lambda kl: kl.Dense(3, bias_initializer="ones"), "layers[1]", "bias_initializer"),
        (lambda kl: kl.Dense(3, trainable=False), "layers[1]", "frozen"),
        (lambda kl: kl.Dense(2**21), "layers[1]", "parameters"),
    ],
)
def test_what_cannot_be_expressed_is_named(make: Any, field: str, says: str) -> None:
    from keras import layers

    refused = _refused(_sequential(layers.Dense(16, name="first"), make(layers)))
    assert refused.errors[0].field == f"model.architecture.{field}"
    assert says in refused.detail


def test_shared_layers_and_unbuilt_or_subclassed_models_are_refused() -> None:
    import keras

    class Subclassed(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    entry = keras.Input((4,))
    shared = keras.layers.Dense(4)
    assert "used twice" in _refused(keras.Model(entry, shared(shared(entry)))).detail
    assert "code" in _refused(Subclassed()).detail
    assert "not built" in _refused(keras.Sequential([keras.layers.Dense(2)])).detail
