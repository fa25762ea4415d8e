"""What every layer description shares: field types, the base class, shape helpers.

Kept apart from the list of layers itself so that the list reads as a list. It must never import a
machine-learning framework: this is the arithmetic that decides whether one is started at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Shape: TypeAlias = tuple[int, ...]

SIDE = 1 << 31
Size = Annotated[int, Field(ge=1, lt=SIDE)]
Activation = Literal[
    "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "sigmoid",
    "hard_sigmoid", "tanh", "softplus", "softsign", "softmax",
]  # fmt: skip
Initializer = Literal[
    "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform",
    "lecun_normal", "random_uniform", "random_normal", "zeros",
]  # fmt: skip
Padding = Literal["valid", "same"]
WORD = 4


class Mismatch(ValueError):
    """A layer that cannot take its input; the text says what was expected."""


@dataclass(frozen=True, slots=True)
class Value:
    """What flows between layers: the shape of one example, without the batch, and its dtype."""

    shape: Shape
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Inferred:
    """What a layer makes of its inputs.

    Attributes:
        value: the output.
        weights: shapes of its weights, in the order of Keras `layer.weights`.
        flops: floating-point operations of one forward pass on one example (multiply-add is two).
        inner_bytes: bytes one example needs inside the layer, next to its output.
    """

    value: Value
    weights: tuple[Shape, ...] = ()
    flops: int = 0
    inner_bytes: int = field(default=0)


def listed(value: Any) -> Any:
    """JSON has lists where Python has tuples."""
    return tuple(value) if isinstance(value, list) else value


def single(value: Any) -> Any:
    """Keras reports the one side of a 1-D window as a tuple of one."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def paired(value: Any) -> Any:
    """One number means both sides, so that equal models have equal fingerprints."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    return listed(value)


Side = Annotated[Size, BeforeValidator(single)]
Pair = Annotated[tuple[Size, Size], BeforeValidator(paired)]
Index = Annotated[int, Field(ge=-1, lt=64)]
Indices = Annotated[tuple[Index, ...], Field(max_length=64)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Epsilon = Annotated[float, Field(gt=0, le=1)]


class Layer(BaseModel):
    """Base of every layer description.

    `inputs` are indices of earlier layers, −1 for the model's input; left out it means the layer
    just before. Subclasses set `merges` when they take two or more inputs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    merges: ClassVar[bool] = False

    inputs: Annotated[Indices | None, BeforeValidator(listed)] = None

    def infer(self, values: Sequence[Value]) -> Inferred:
        """Output, weights and cost for the given inputs; Mismatch when they do not fit."""
        raise NotImplementedError

    def keras_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the Keras layer of the same name."""
        return self.model_dump(exclude={"type", "inputs"})


def floats(values: Sequence[Value], rank: int | None = None) -> Shape:
    """Shape of the only input, which must be floating point and of the given rank."""
    value = values[0]
    if value.dtype != "float32":
        raise Mismatch("expects numbers; whole-number input goes through Embedding first")
    if rank is not None and len(value.shape) != rank:
        raise Mismatch(f"expects {rank} axes besides the batch, got shape {list(value.shape)}")
    return value.shape


def window(size: int, kernel: int, stride: int, padding: str) -> int:
    """Positions of a sliding window along one axis."""
    places = -(-size // stride) if padding in {"same", "causal"} else (size - kernel) // stride + 1
    if places < 1:
        raise Mismatch(f"window of {kernel} does not fit into {size}")
    return places


def grid(sides: Sequence[int], kernel: Shape, strides: Shape, padding: str) -> Shape:
    """Positions of a window along several axes."""
    windows = zip(sides, kernel, strides, strict=True)
    return tuple(window(side, size, stride, padding) for side, size, stride in windows)
