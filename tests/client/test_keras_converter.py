"""Keras models become data without a loss, or a named layer says why not; arithmetic is Keras'."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_gateway import modelspec
from privacy_gateway.errors import Refused
from privacy_gateway.keras_converter import keras_of_spec, spec_of_keras

pytestmark = pytest.mark.tensorflow

SEQUENCES = {"input": {"shape": [7, 3]}, "rank": 2}
IMAGES = {"input": {"shape": [9, 8, 4]}, "rank": 3}
FLAT = {"input": {"shape": [12]}, "rank": 1}
TEXTS = {"input": {"shape": [6], "dtype": "int32"}, "rank": 2}

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
    1: [
        *_ANY,
        _layer("Reshape", target_shape=st.sampled_from([[3, 4], [2, 2, 3], [1, 12], [4, 1]])),
    ],
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
        _layer("Flatten"),
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
        _layer("GroupNormalization", groups=st.sampled_from([1, 2])),
        _layer("Reshape", target_shape=st.sampled_from([[72, 4], [9, 32], [288]])),
    ],
}


@st.composite
def specifications(draw: st.DrawFn) -> modelspec.ModelSpec:
    """A random chain of layers that fit, over vectors, sequences or images."""
    start = draw(st.sampled_from([FLAT, SEQUENCES, IMAGES, TEXTS]))
    rank, layers = start["rank"], []
    if start is TEXTS:
        sizes = {"input_dim": draw(_few), "output_dim": draw(_few)}
        layers.append({"type": "Embedding", **sizes})
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


@st.composite
def graphs(draw: st.DrawFn) -> modelspec.ModelSpec:
    """A random graph: later layers read any earlier value, through Add or Concatenate too.

    Each step adds a layer to any earlier value of a rank, or merges two that fit; loose ends are
    flattened and joined, so that every layer is used.
    """
    start = draw(st.sampled_from([FLAT, SEQUENCES, IMAGES]))
    layers: list[dict[str, Any]] = [{"type": "Activation", "activation": "tanh", "inputs": [-1]}]
    for _ in range(draw(st.integers(2, 6))):
        source = draw(st.integers(0, len(layers) - 1))
        more = {"type": draw(st.sampled_from(["Add", "Concatenate"]))} | {
            "inputs": [source, draw(st.integers(0, len(layers) - 1))]
        }
        rank = len(_shape_at(start["input"], layers, source))
        one = draw(st.one_of(_BY_RANK[rank])) | {"inputs": [source]}
        for entry in draw(st.permutations([more, one])):
            try:
                _shape_at(start["input"], [*layers, entry], len(layers))
            except Refused:
                continue
            layers.append(entry)
            break
    used = {place for entry in layers for place in entry["inputs"]}
    loose = [place for place in range(len(layers)) if place not in used]
    ends = []
    for place in loose:
        layers.append({"type": "Flatten", "inputs": [place]})
        ends.append(len(layers) - 1)
    if len(ends) > 1:
        layers.append({"type": "Concatenate", "inputs": ends})
    layers.append({"type": "Dense", "units": 2, "inputs": [len(layers) - 1]})
    return modelspec.parse({"input": start["input"], "layers": layers})


def _shape_at(start: dict[str, Any], layers: list[dict[str, Any]], place: int) -> tuple[int, ...]:
    """Shape of one value of an unfinished graph: of the part that leads to it."""
    wanted = {place}
    for index in range(place, -1, -1):
        if index in wanted:
            wanted |= set(layers[index]["inputs"]) - {-1}
    order = sorted(wanted)
    moved = {-1: -1} | {old: new for new, old in enumerate(order)}
    part = [
        layers[old] | {"inputs": [moved[source] for source in layers[old]["inputs"]]}
        for old in order
    ]
    return modelspec.measure(modelspec.parse({"input": start, "layers": part})).output_shape


@given(spec=graphs())
@settings(max_examples=25)
def test_arithmetic_of_graphs_is_that_of_keras_and_they_come_back(
    spec: modelspec.ModelSpec,
) -> None:
    model = keras_of_spec(spec)
    size = modelspec.measure(spec)
    assert model.count_params() == size.parameters
    assert sorted(tuple(w.shape) for w in model.weights) == sorted(size.weight_shapes)
    assert model.output_shape[1:] == size.output_shape
    back = spec_of_keras(model)
    assert modelspec.measure(back).flops == size.flops
    x = np.random.default_rng(2).normal(size=(2, *spec.input.shape)).astype(np.float32)
    again = keras_of_spec(back, model.get_weights())
    np.testing.assert_allclose(again(x), model(x), rtol=1e-4, atol=1e-5)


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
        # Without what the sandbox adds to an embedding.
        assert spec_of_keras(keras_of_spec(spec)).fingerprint == spec.fingerprint


def _sequential(*layers: Any, shape: tuple[int, ...] = (784,)) -> Any:
    import keras

    return keras.Sequential([keras.Input(shape), *layers])


def _every_layer() -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """One model for each layer of the allow-list, with options other than the usual ones."""
    sequence, image = SEQUENCES["input"], IMAGES["input"]
    two = {"pool_size": 3, "strides": 2, "padding": "same"}
    plain: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "Dense": (FLAT["input"], {"units": 5, "activation": "gelu"}),
        "Conv1D": (sequence, {"filters": 4, "kernel_size": 3, "padding": "causal"}),
        "Conv2D": (image, {"filters": 4, "kernel_size": [3, 2], "strides": 2}),
        "DepthwiseConv2D": (image, {"kernel_size": 3, "depth_multiplier": 2}),
        "MaxPooling1D": (sequence, two),
        "AveragePooling1D": (sequence, two),
        "MaxPooling2D": (image, two),
        "AveragePooling2D": (image, two),
        "GlobalMaxPooling1D": (sequence, {}),
        "GlobalAveragePooling1D": (sequence, {}),
        "GlobalMaxPooling2D": (image, {}),
        "GlobalAveragePooling2D": (image, {}),
        "Flatten": (image, {}),
        "Reshape": (FLAT["input"], {"target_shape": [3, 4]}),
        "Embedding": ({"shape": [6], "dtype": "int32"}, {"input_dim": 9, "output_dim": 4}),
        "SimpleRNN": (sequence, {"units": 4, "return_sequences": True}),
        "LSTM": (sequence, {"units": 4}),
        "GRU": (sequence, {"units": 4, "return_sequences": True}),
        "Dropout": (FLAT["input"], {"rate": 0.25}),
        "LayerNormalization": (sequence, {"epsilon": 1e-5}),
        "GroupNormalization": (image, {"groups": 2, "epsilon": 1e-4}),
        "Activation": (FLAT["input"], {"activation": "softplus"}),
    }
    models = {
        name: (start, [{"type": name, **options}]) for name, (start, options) in plain.items()
    }
    arms: list[dict[str, Any]] = [{"type": "Dense", "units": 4} for _ in range(2)]
    arms[1]["inputs"] = [-1]
    for name in ("Add", "Concatenate"):
        models[name] = (FLAT["input"], [*arms, {"type": name, "inputs": [0, 1]}])
    return models


def test_every_layer_of_the_allow_list_has_a_row() -> None:
    assert set(_every_layer()) == set(modelspec.LAYER_NAMES)


@pytest.mark.parametrize("name", modelspec.LAYER_NAMES)
def test_every_layer_goes_to_a_specification_and_back_with_equal_outputs(name: str) -> None:
    start, layers = _every_layer()[name]
    # A weighted end, so that there is a Keras model with weights for every layer.
    ended = modelspec.parse(
        {"input": start, "layers": [*layers, {"type": "Flatten"}, {"type": "Dense", "units": 2}]}
    )
    model = keras_of_spec(ended)
    spec = spec_of_keras(model)
    assert spec.fingerprint == ended.fingerprint
    again = keras_of_spec(spec, _in_order(model, spec))
    generator = np.random.default_rng(5)
    shape = (3, *spec.input.shape)
    whole = spec.input.dtype == "int32"
    x = generator.integers(0, 9, shape) if whole else generator.normal(size=shape)
    x = x.astype(spec.input.dtype)
    np.testing.assert_allclose(again(x), model(x), rtol=1e-6, atol=1e-7)
    size = modelspec.measure(spec)
    assert model.count_params() == size.parameters
    assert model.output_shape[1:] == size.output_shape


def _in_order(model: Any, spec: modelspec.ModelSpec) -> list[Any]:
    """A model's weights in the order of the specification's layers, which converting keeps."""
    arrays = model.get_weights()
    assert [a.shape for a in arrays] == list(modelspec.measure(spec).weight_shapes)
    return list(arrays)


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

    rebuilt, variables = build_keras(spec)
    for variable, value in zip(variables, model.get_weights(), strict=True):
        variable.assign(value)
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
