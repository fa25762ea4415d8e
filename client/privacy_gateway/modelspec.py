"""A model as data: the only form in which an architecture travels.

A researcher sends this description, never code, weights files or configs of a framework. Its
cost (parameters, bytes, operations per example) is known from plain arithmetic, exactly and in
microseconds, before any machine-learning framework is imported. This module must never import
one, and must never accept a layer that is not in `privacy_gateway.layers`.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

from privacy_gateway import canonical, layers
from privacy_gateway.errors import FieldError, Refused
from privacy_gateway.layer_base import WORD, Inferred, Layer, Mismatch, Shape, Size, Value, listed

MAX_LAYERS = 64
MODEL_FIELD = "model.architecture"

Loss = Literal["sparse_categorical_crossentropy", "binary_crossentropy", "mean_squared_error"]

_STATISTICS = "keeps statistics of the data outside the clipped update"
_CODE = "carries code, not a description"
_REASONS = {
    "BatchNormalization": _STATISTICS,
    "Normalization": _STATISTICS,
    "SpectralNormalization": _STATISTICS,
    "Discretization": _STATISTICS,
    "StringLookup": _STATISTICS,
    "IntegerLookup": _STATISTICS,
    "TextVectorization": _STATISTICS,
    "Lambda": _CODE,
    "TFSMLayer": _CODE,
    "TorchModuleWrapper": _CODE,
    "JaxLayer": _CODE,
    "FlaxLayer": _CODE,
}

_LAYERS: dict[str, type[Layer]] = {
    kind.model_fields["type"].default: kind
    for kind in (
        layers.Dense, layers.Conv1D, layers.Conv2D, layers.DepthwiseConv2D, layers.MaxPooling1D,
        layers.AveragePooling1D, layers.MaxPooling2D, layers.AveragePooling2D,
        layers.GlobalMaxPooling1D, layers.GlobalAveragePooling1D, layers.GlobalMaxPooling2D,
        layers.GlobalAveragePooling2D, layers.Flatten, layers.Reshape, layers.Embedding,
        layers.SimpleRNN, layers.LSTM, layers.GRU, layers.Dropout, layers.LayerNormalization,
        layers.GroupNormalization, layers.ActivationLayer, layers.Add, layers.Concatenate,
    )
}  # fmt: skip
LAYER_NAMES = tuple(_LAYERS)


def _known(value: Any) -> Any:
    """Refuse by name, with the reason, before the union's own long message."""
    name = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    if not isinstance(name, str):
        raise PydanticCustomError("model_refused", "a layer is an object with a `type`")
    if name not in _LAYERS:
        facts = {"name": name[:60], "reason": reason_against(name)}
        raise PydanticCustomError("model_refused", "{name} {reason}", facts)
    return value


AnyLayer = Annotated[
    layers.Dense
    | layers.Conv1D
    | layers.Conv2D
    | layers.DepthwiseConv2D
    | layers.MaxPooling1D
    | layers.AveragePooling1D
    | layers.MaxPooling2D
    | layers.AveragePooling2D
    | layers.GlobalMaxPooling1D
    | layers.GlobalAveragePooling1D
    | layers.GlobalMaxPooling2D
    | layers.GlobalAveragePooling2D
    | layers.Flatten
    | layers.Reshape
    | layers.Embedding
    | layers.SimpleRNN
    | layers.LSTM
    | layers.GRU
    | layers.Dropout
    | layers.LayerNormalization
    | layers.GroupNormalization
    | layers.ActivationLayer
    | layers.Add
    | layers.Concatenate,
    Field(discriminator="type"),
]


def _few(value: Any) -> Any:
    """Count before looking: a thousand layers cost nothing to refuse."""
    if isinstance(value, list | tuple):
        if len(value) > MAX_LAYERS:
            raise PydanticCustomError(
                "model_refused",
                "{given} layers, at most {limit}",
                {"given": len(value), "limit": MAX_LAYERS},
            )
        return tuple(value)
    return value


class InputSpec(BaseModel):
    """What one example looks like to the model.

    `shape` leaves the batch out. `float32` takes any stored number; `int32` is for Embedding.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    shape: Annotated[
        tuple[Size, ...],
        BeforeValidator(listed),
        Field(min_length=1, max_length=4),
    ]
    dtype: Literal["float32", "int32"] = "float32"


def _with_fields(value: Any, handler: Any) -> Any:
    """Discriminator in front of the union."""
    return handler(_known(value))


class ModelSpec(BaseModel):
    """An architecture: the input, then layers, each fed by the one before or by `inputs`.

    The last layer is the output. `binary_crossentropy` and `sparse_categorical_crossentropy` read
    a final sigmoid or softmax as probabilities and anything else as logits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    input: InputSpec
    layers: Annotated[
        tuple[Annotated[AnyLayer, WrapValidator(_with_fields)], ...],
        BeforeValidator(_few),
        Field(min_length=1),
    ]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical form; equal for equal architectures."""
        return canonical.digest(self.as_dict(), floats=True)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, every default written out."""
        return self.model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest model a gateway accepts; settings, and facts for the owner's policy."""

    parameters: int = 20_000_000
    activation_bytes: int = 64 << 20
    flops: int = 5_000_000_000


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Exact size of a model.

    Attributes:
        parameters: numbers in all weights.
        activation_bytes: bytes one example occupies while training (outputs and inner buffers).
        flops: operations of a forward pass on one example; training takes about three times it.
        weight_shapes: shapes of all weights, layer by layer, each layer's as in Keras; for a
            Sequential or converted model that is the order of `model.weights`.
        output_shape: shape of one prediction, without the batch.
    """

    parameters: int
    activation_bytes: int
    flops: int
    weight_shapes: tuple[Shape, ...]
    output_shape: Shape


def parse(value: Any, *, field: str = MODEL_FIELD, limits: Limits | None = None) -> ModelSpec:
    """Read an architecture and measure it.

    Args:
        value: parsed JSON.
        field: where it stood in the request; prefix of every field named in a refusal.
        limits: largest accepted size; the defaults of `Limits` when left out.

    Raises:
        Refused: `model_refused`, naming each field at fault.
    """
    try:
        spec = ModelSpec.model_validate(value)
    except ValidationError as error:
        faults = [
            FieldError(_path(field, fault["loc"]), fault["msg"])
            for fault in error.errors(include_url=False, include_input=False)
        ]
        raise Refused(
            "model_refused", f"{faults[0].field}: {faults[0].message}", errors=faults
        ) from None
    measure(spec, field=field, limits=limits)
    return spec


def measure(
    spec: ModelSpec, *, field: str = MODEL_FIELD, limits: Limits | None = None
) -> ModelSize:
    """Size of a model by plain arithmetic; no framework is imported.

    Raises:
        Refused: `model_refused`, naming the layer, when shapes do not fit together, a layer's
            output is never used, or a limit is passed.
    """
    bounds = limits or Limits()
    source = Value(spec.input.shape, spec.input.dtype)
    values: list[Value] = []
    weights: list[Shape] = []
    parameters = flops = 0
    held = math.prod(source.shape) * WORD
    _refuse_beyond(f"{field}.input", "activation_bytes", held, bounds.activation_bytes)
    for index, layer in enumerate(spec.layers):
        here = f"{field}.layers[{index}]"
        made = _infer(
            layer, [source if i < 0 else values[i] for i in _inputs(spec, index, here)], here
        )
        values.append(made.value)
        weights += made.weights
        parameters += sum(map(math.prod, made.weights))
        held += math.prod(made.value.shape) * WORD + made.inner_bytes
        flops += made.flops
        _refuse_beyond(here, "parameters", parameters, bounds.parameters)
        _refuse_beyond(here, "activation_bytes", held, bounds.activation_bytes)
        _refuse_beyond(here, "flops", flops, bounds.flops)
    _refuse_unused(spec, field)
    return ModelSize(parameters, held, flops, tuple(weights), values[-1].shape)


def size_of(spec: ModelSpec) -> ModelSize:
    """Size of a model that was let in before: the limits of whoever let it in are not known here.

    Raises:
        Refused: `model_refused`, when shapes do not fit together or a layer's output is never used.
    """
    return measure(spec, limits=_UNLIMITED)


def layer_type(name: str) -> type[Layer] | None:
    """The layer of that name, None when it is not on the list."""
    return _LAYERS.get(name)


def reason_against(name: str) -> str:
    """Why a layer is not on the list."""
    return _REASONS.get(name, "is not on the list of layers")


def layer_inputs(spec: ModelSpec, index: int) -> tuple[int, ...]:
    """Indices of the layers that feed layer `index`, −1 for the model's input."""
    given = spec.layers[index].inputs
    return (index - 1,) if given is None else given


def check_fit(
    spec: ModelSpec,
    *,
    loss: Loss,
    feature_shape: Shape,
    feature_dtype: str,
    label_shape: Shape = (),
    classes: int | None = None,
    field: str = MODEL_FIELD,
) -> None:
    """Refuse a model that the data set's columns cannot feed or its loss cannot judge.

    Args:
        spec: the architecture.
        loss: name of the loss.
        feature_shape: shape of one stored example; only the count of numbers must agree.
        feature_dtype: its stored dtype; `int32` input needs whole numbers.
        label_shape: shape of one stored label, `()` for a scalar.
        classes: number of classes where the data set declares one.
        field: prefix of the fields named in a refusal.

    Raises:
        Refused: `model_refused` naming `….input` or the last layer.
    """
    wanted, given = math.prod(spec.input.shape), math.prod(feature_shape)
    if wanted != given:
        message = f"takes {wanted} numbers {list(spec.input.shape)}; an example has {given}"
        raise _refused(f"{field}.input.shape", message, wanted, given)
    if spec.input.dtype == "int32" and feature_dtype.startswith("float"):
        raise _refused(f"{field}.input.dtype", f"is int32; the data holds {feature_dtype}")
    output = measure(spec, field=field, limits=_UNLIMITED).output_shape
    last = f"{field}.layers[{len(spec.layers) - 1}]"
    if loss == "sparse_categorical_crossentropy":
        if classes is not None and output[-1] != classes:
            raise _refused(
                last, f"gives {output[-1]} scores for {classes} classes", output[-1], classes
            )
        output = output[:-1]
    elif loss == "binary_crossentropy" and classes not in {None, 2}:
        raise _refused(last, f"gives one probability for {classes} classes")
    if math.prod(output) != math.prod(label_shape):
        message = f"predicts {list(output)} for labels of shape {list(label_shape)}"
        raise _refused(last, message)


_UNLIMITED = Limits(1 << 62, 1 << 62, 1 << 62)


def _inputs(spec: ModelSpec, index: int, field: str) -> tuple[int, ...]:
    """Inputs of a layer, checked to lie before it and to be as many as it takes."""
    given = layer_inputs(spec, index)
    if any(source >= index for source in given):
        raise _refused(f"{field}.inputs", "must name earlier layers", limit=index - 1)
    merges = spec.layers[index].merges
    if (len(given) < 2) if merges else (len(given) != 1):
        wanted = "two or more inputs" if merges else "exactly one input"
        raise _refused(f"{field}.inputs", f"{spec.layers[index].type} takes {wanted}", len(given))
    return given


def _infer(layer: Layer, values: list[Value], field: str) -> Inferred:
    """Inference of one layer, with its place in the message."""
    try:
        return layer.infer(values)
    except Mismatch as error:
        raise _refused(field, f"{getattr(layer, 'type', 'layer')} {error}") from None


def _refuse_beyond(field: str, name: str, value: int, limit: int) -> None:
    if value > limit:
        # Far beyond the limit the exact figure helps nobody and may not fit a JSON integer.
        raise _refused(field, f"{name} {value:.3g}, at most {limit}", min(value, 1 << 62), limit)


def _refuse_unused(spec: ModelSpec, field: str) -> None:
    """A layer that feeds nothing would cost parameters and learn nothing."""
    used = {source for index in range(len(spec.layers)) for source in layer_inputs(spec, index)}
    for index in range(len(spec.layers) - 1):
        if index not in used:
            raise _refused(f"{field}.layers[{index}]", "feeds no later layer")


def _refused(
    field: str, message: str, value: int | None = None, limit: int | None = None
) -> Refused:
    error = FieldError(field, message, value, limit)
    return Refused("model_refused", f"{field}: {message}", errors=[error])


def _path(prefix: str, location: tuple[int | str, ...]) -> str:
    """Dotted path of a fault; the union's tag is no part of the request."""
    text = prefix
    for position, part in enumerate(location):
        if isinstance(part, int):
            text += f"[{part}]"
        elif not (position == 2 and part in _LAYERS):
            text += f".{part}"
    return text
