"""Architectures are measured exactly, and hostile ones are refused by name without a framework."""

import subprocess
import sys
from typing import Any

import pytest

from privacy_gateway import modelspec, schemas
from privacy_gateway.errors import Refused
from privacy_gateway.modelspec import Limits

IMAGE = {"shape": [28, 28, 1]}
FLAT = {"shape": [784]}
DENSE = {"type": "Dense", "units": 10}


def refusal(value: Any, **options: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        modelspec.parse(value, **options)
    assert caught.value.code == "model_refused"
    return caught.value


def fields(value: Any) -> list[str]:
    return [error.field for error in refusal(value).errors]


def test_a_linear_model_is_measured() -> None:
    size = modelspec.measure(modelspec.parse({"input": FLAT, "layers": [DENSE]}))
    assert size.parameters == 7850
    assert size.flops == 2 * 784 * 10
    assert size.weight_shapes == ((784, 10), (10,))
    assert size.output_shape == (10,)


def test_the_reference_convolutional_model_is_measured() -> None:
    conv = {"type": "Conv2D", "kernel_size": 5, "padding": "same", "activation": "relu"}
    pool = {"type": "MaxPooling2D"}
    layers = [{**conv, "filters": 32}, pool, {**conv, "filters": 64}, pool, {"type": "Flatten"}]
    layers += [{"type": "Dense", "units": 512}, DENSE]
    size = modelspec.measure(modelspec.parse({"input": IMAGE, "layers": layers}))
    assert size.parameters == 1_663_370


@pytest.mark.parametrize(
    ("layer", "field", "says"),
    [
        ({"type": "Dense", "units": 2**28}, "layers[1]", "parameters"),
        ({"type": "Dense", "units": 2**40}, "layers[1].units", "less than"),
        ({"type": "Dense", "units": 10.0}, "layers[1].units", "integer"),
        ({"type": "Dense", "units": "10"}, "layers[1].units", "integer"),
        ({"type": "Dense", "units": True}, "layers[1].units", "integer"),
        ({"type": "Dense", "units": 0}, "layers[1].units", "greater"),
        ({"type": "Dense"}, "layers[1].units", "required"),
        ({"type": "Dense", "units": 2, "lambda": "x"}, "layers[1].lambda", "not permitted"),
        ({"type": "Dense", "units": 2, "activation": "evil"}, "layers[1].activation", "linear"),
        ({"type": "BatchNormalization"}, "layers[1]", "BatchNormalization keeps statistics"),
        ({"type": "Lambda", "function": "x"}, "layers[1]", "Lambda carries code"),
        ({"type": "TFSMLayer", "filepath": "/"}, "layers[1]", "TFSMLayer carries code"),
        ({"type": "StringLookup", "vocabulary": "/x"}, "layers[1]", "StringLookup keeps"),
        ({"type": "Mystery"}, "layers[1]", "Mystery is not on the list"),
        ({}, "layers[1]", "object with a `type`"),
        ("Dense", "layers[1]", "object with a `type`"),
        ({"type": "Conv2D", "filters": 2, "kernel_size": 3}, "layers[1]", "3 axes"),
        ({"type": "Reshape", "target_shape": [3, 3]}, "layers[1]", "9 numbers"),
        ({"type": "Embedding", "input_dim": 5, "output_dim": 2}, "layers[1]", "whole numbers"),
        ({"type": "Dense", "units": 2, "inputs": [1]}, "layers[1].inputs", "earlier"),
        ({"type": "Dense", "units": 2, "inputs": [-1, 0]}, "layers[1].inputs", "one input"),
        ({"type": "Dense", "units": 2, "inputs": [-1]}, "layers[0]", "feeds no later layer"),
        ({"type": "Add"}, "layers[1].inputs", "two or more"),
        ({"type": "Add", "inputs": [-1, 0]}, "layers[1]", "equal shapes"),
        ({"type": "Dropout", "rate": 1.0}, "layers[1].rate", "less than 1"),
        ({"type": "Dropout", "rate": float("nan")}, "layers[1].rate", "finite"),
    ],
)
def test_a_refusal_names_layer_and_reason(layer: Any, field: str, says: str) -> None:
    refused = refusal({"input": FLAT, "layers": [DENSE, layer]})
    assert refused.errors[0].field == f"model.architecture.{field}"
    assert says in refused.errors[0].message


def test_a_thousand_layers_are_counted_not_built() -> None:
    refused = refusal({"input": FLAT, "layers": [DENSE] * 1000})
    assert refused.errors[0].field == "model.architecture.layers"
    assert "1000 layers, at most 64" in refused.detail


@pytest.mark.parametrize("shape", [[], [0], [-1], [None], [2.0], [1 << 31], [2] * 5, "784"])
def test_an_input_shape_is_strict(shape: Any) -> None:
    assert fields({"input": {"shape": shape}, "layers": [DENSE]})[0].startswith(
        "model.architecture.input.shape"
    )


def test_every_fault_is_named() -> None:
    faults = fields({"input": FLAT, "layers": [{"type": "Dense"}, {"type": "Nope"}], "x": 1})
    assert faults == [
        "model.architecture.layers[0].units",
        "model.architecture.layers[1]",
        "model.architecture.x",
    ]


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (Limits(parameters=7849), "parameters"),
        (Limits(activation_bytes=3175), "activation_bytes"),
        (Limits(flops=15679), "flops"),
    ],
)
def test_one_beyond_a_limit_is_refused(limits: Limits, name: str) -> None:
    assert name in refusal({"input": FLAT, "layers": [DENSE]}, limits=limits).detail


def test_at_the_limit_is_accepted() -> None:
    modelspec.parse({"input": FLAT, "layers": [DENSE]}, limits=Limits(7850, 3176, 15680))


def test_chains_that_grow_without_bound_are_refused_by_arithmetic() -> None:
    wide = {"type": "Conv2D", "filters": 2**30, "kernel_size": [2**20, 2**20], "padding": "same"}
    assert "at most" in refusal({"input": {"shape": [2**20, 2**10, 1]}, "layers": [wide]}).detail


def test_fingerprints_follow_the_meaning() -> None:
    short = {"type": "Conv2D", "filters": 2, "kernel_size": 3}
    long = {**short, "kernel_size": [3, 3], "strides": [1, 1], "inputs": None}
    first = modelspec.parse({"input": IMAGE, "layers": [short]})
    second = modelspec.parse({"input": IMAGE, "layers": [long]})
    other = modelspec.parse({"input": IMAGE, "layers": [{**short, "filters": 3}]})
    assert first.fingerprint == second.fingerprint != other.fingerprint
    assert modelspec.parse(first.as_dict()) == first


@pytest.mark.parametrize(
    ("loss", "units", "options", "field"),
    [
        ("sparse_categorical_crossentropy", 10, {"feature_shape": (28, 28)}, None),
        ("sparse_categorical_crossentropy", 10, {"feature_shape": (783,)}, "input.shape"),
        (
            "sparse_categorical_crossentropy",
            9,
            {"feature_shape": (784,), "classes": 10},
            "layers[0]",
        ),
        ("binary_crossentropy", 1, {"feature_shape": (784,), "classes": 2}, None),
        ("binary_crossentropy", 2, {"feature_shape": (784,), "classes": 2}, "layers[0]"),
        ("binary_crossentropy", 1, {"feature_shape": (784,), "classes": 10}, "layers[0]"),
        ("mean_squared_error", 3, {"feature_shape": (784,), "label_shape": (3,)}, None),
        ("mean_squared_error", 3, {"feature_shape": (784,)}, "layers[0]"),
    ],
)
def test_a_model_must_fit_its_data(loss: Any, units: int, options: Any, field: str | None) -> None:
    spec = modelspec.parse({"input": FLAT, "layers": [{"type": "Dense", "units": units}]})
    if field is None:
        modelspec.check_fit(spec, loss=loss, feature_dtype="uint8", **options)
        return
    with pytest.raises(Refused) as caught:
        modelspec.check_fit(spec, loss=loss, feature_dtype="uint8", **options)
    assert caught.value.errors[0].field == f"model.architecture.{field}"


def test_a_job_names_the_same_fields() -> None:
    layers = [DENSE, {"type": "Dense", "units": 10.0}, {"type": "Lambda"}]
    with pytest.raises(Refused) as caught:
        schemas.parse(schemas.ModelChoice, {"architecture": {"input": FLAT, "layers": layers}})
    assert [error.field for error in caught.value.errors] == [
        "architecture.layers[1].units",
        "architecture.layers[2]",
    ]


def test_no_framework_is_imported() -> None:
    program = (
        "import sys; from privacy_gateway import modelspec;"
        f"modelspec.parse({{'input': {FLAT!r}, 'layers': [{DENSE!r}]}});"
        "print({'keras', 'tensorflow', 'numpy'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    path = ":".join(filter(None, sys.path))
    run = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert run.stdout.strip() == "set()"
