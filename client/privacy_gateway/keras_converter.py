"""From a researcher's `keras.Model` to a ModelSpec and back, on the researcher's own machine.

Only the architecture is read. A layer is expressed by the few options the allow-list knows, and
then compared with what Keras reports of it: any other option that differs from its default is
named and refused, because a model that trains differently from what its author wrote is worse than
an error. Keras is imported when a model is converted and at no other time.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from privacy_gateway import modelspec
from privacy_gateway.errors import FieldError, Refused
from privacy_gateway.layer_base import Layer

if TYPE_CHECKING:
    import keras
    import numpy.typing as npt

# Options that say how a layer is called or stored, not what it computes.
_NAMES_ONLY = {"name", "trainable", "dtype", "seed", "build_config", "registered_name"}
_INPUT_LAYER = "InputLayer"


Arguments = dict[str, Any]
Change = Callable[[int, Arguments, list[Any]], tuple[Arguments, list[Any]]]


def _as_it_stands(
    _index: int, arguments: Arguments, sources: list[Any]
) -> tuple[Arguments, list[Any]]:
    return arguments, sources


def spec_of_keras(
    model: "keras.Model", *, limits: modelspec.Limits | None = None
) -> modelspec.ModelSpec:
    """The ModelSpec of a Sequential or functional model.

    Args:
        model: a built Keras 3 model with one input and one output.
        limits: largest accepted size, see `modelspec.Limits`.

    Raises:
        Refused: `model_refused`, naming the layer that cannot be expressed and why.
    """
    nodes = _nodes(model)
    places = {id(node.operation): index for index, node in enumerate(nodes)}
    described = []
    for index, node in enumerate(nodes):
        entry = _describe(node.operation, index)
        sources = [places.get(id(parent.operation), -1) for parent in node.parent_nodes]
        if sources != [index - 1]:
            entry["inputs"] = sources
        described.append(entry)
    value = {"input": _input_of(model), "layers": described}
    spec = modelspec.parse(value, limits=limits)
    for index, (node, layer) in enumerate(zip(nodes, spec.layers, strict=True)):
        _compare(node.operation, layer, index)
    return spec


def keras_of_spec(
    spec: modelspec.ModelSpec, arrays: "Sequence[npt.NDArray[Any]] | None" = None
) -> "keras.Model":
    """A Keras model of a specification, with released weights in it.

    Args:
        spec: the architecture.
        arrays: weights in the order of the specification's layers, as results have them; Keras'
            own first weights when left out.

    Raises:
        ValueError: the arrays are not those of the architecture.
        ImportError: Keras is not installed.
    """
    model, variables = built(spec)
    if arrays is not None:
        if [tuple(array.shape) for array in arrays] != [tuple(v.shape) for v in variables]:
            raise ValueError("Expected weights in the shapes of the architecture")
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
    return model


def built(spec: modelspec.ModelSpec, change: Change = _as_it_stands) -> tuple[Any, list[Any]]:
    """The Keras model of a specification, and its weights in the order of the layers.

    Args:
        spec: the architecture.
        change: given the place of a layer, its Keras arguments and its inputs, what to build it of.

    Raises:
        ImportError: Keras is not installed.
    """
    import keras

    inputs = keras.Input(shape=spec.input.shape, dtype=spec.input.dtype)
    outputs: list[Any] = []
    variables: list[Any] = []
    for index, layer in enumerate(spec.layers):
        given = [inputs if i < 0 else outputs[i] for i in modelspec.layer_inputs(spec, index)]
        arguments, sources = change(index, layer.keras_arguments(), given)
        made = getattr(keras.layers, layer.type)(**arguments)
        outputs.append(made(sources if layer.merges else sources[0]))
        variables += made.trainable_weights
    return keras.Model(inputs, outputs[-1]), variables


def _nodes(model: "keras.Model") -> list[Any]:
    """Calls of the model's layers, inputs first, the output last."""
    import keras

    if isinstance(model, keras.Sequential):
        if not model.built:
            raise _refused("input", "the model is not built; start it with keras.Input(shape)")
        model = model._functional  # noqa: SLF001 - the public graph of a Sequential has no name
    if not isinstance(model, keras.src.models.functional.Functional):
        raise _refused("", "a subclassed model is code; use Sequential or the functional API")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise _refused("", "a model has exactly one input and one output")
    nodes = list(_ordered(model))
    operations = [id(node.operation) for node in nodes]
    if len(set(operations)) != len(operations):
        raise _refused("", "a layer is used twice; weights cannot be shared")
    if not nodes or nodes[-1].operation is not model.outputs[0]._keras_history.operation:  # noqa: SLF001
        raise _refused("", "the output is not the last layer")
    return nodes


def _ordered(model: Any) -> Iterator[Any]:
    """The graph's calls in the order in which Keras lists weights."""
    inside = {id(node) for nodes in model._nodes_by_depth.values() for node in nodes}  # noqa: SLF001
    for operation in model.operations:
        if type(operation).__name__ == _INPUT_LAYER:
            continue
        for node in operation._inbound_nodes:  # noqa: SLF001
            if id(node) in inside:
                yield node


def _input_of(model: "keras.Model") -> dict[str, Any]:
    tensor = model.inputs[0]
    shape = list(tensor.shape[1:])
    if any(side is None for side in shape):
        raise _refused("input.shape", f"every side must be known, got {shape}")
    whole = "int" in str(tensor.dtype)
    return {"shape": shape, "dtype": "int32" if whole else "float32"}


def _describe(operation: Any, index: int) -> dict[str, Any]:
    """The options of one layer that the allow-list knows."""
    name = type(operation).__name__
    kind = modelspec.layer_type(name)
    if kind is None:
        reason = modelspec.reason_against(name)
        raise _refused(f"layers[{index}]", f"{name} {reason} ({operation.name})")
    config = operation.get_config()
    known = {key: config[key] for key in kind.model_fields if key in config}
    return {"type": name} | {key: _plain(key, value) for key, value in known.items()}


def _plain(option: str, value: Any) -> Any:
    """Keras' own serialisation as the short form of the specification."""
    if isinstance(value, dict) and option.endswith("initializer"):
        return _snake(str(value.get("class_name")))
    return list(value) if isinstance(value, tuple) else value


def _compare(operation: Any, layer: Layer, index: int) -> None:
    """Rebuild the layer from its description; whatever differs cannot be expressed."""
    given = operation.get_config()
    again = type(operation)(**layer.keras_arguments())
    if hasattr(again, "axis") and not layer.merges:
        # Keras turns a negative axis into a positive one when it builds.
        again.build(tuple(operation.input.shape))
    rebuilt = again.get_config()
    for option in given.keys() | rebuilt.keys():
        if option in _NAMES_ONLY or _same(given.get(option), rebuilt.get(option)):
            continue
        field = f"layers[{index}]"
        message = f"{type(operation).__name__} option {option} cannot be expressed"
        raise _refused(field, f"{message} ({operation.name})")
    if not getattr(operation, "trainable", True):
        raise _refused(f"layers[{index}]", f"a frozen layer cannot be expressed ({operation.name})")


def _same(first: Any, second: Any) -> bool:
    """Equality of serialised options; seeds of initializers and object ids do not matter."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = (first.keys() | second.keys()) - {"seed", "shared_object_id", "build_config"}
        return all(_same(first.get(key), second.get(key)) for key in keys)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return list(first) == list(second)
    return bool(first == second)


def _snake(name: str) -> str:
    """`GlorotUniform` → `glorot_uniform`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _refused(place: str, message: str) -> Refused:
    field = f"{modelspec.MODEL_FIELD}.{place}".rstrip(".")
    error = FieldError(field, message)
    return Refused("model_refused", f"{field}: {message}", errors=[error])
