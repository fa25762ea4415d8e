"""The allow-list of layers, each with its exact arithmetic in plain Python.

A layer here is a description, never code: its fields are named as Keras names the arguments, and
`infer` says what Keras would build (output shape, weight shapes in Keras order) and what one
example costs, without importing Keras. Size bombs are therefore refused in microseconds.

Nothing may enter this list that keeps statistics of the data outside the clipped update
(BatchNormalization and its kin), runs a researcher's code, or opens a file or an address.
Source of the shape rules: https://keras.io/api/layers/.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from privacy_gateway.layer_base import (
    WORD,
    Activation,
    Epsilon,
    Fraction,
    Inferred,
    Initializer,
    Layer,
    Mismatch,
    Padding,
    Pair,
    Shape,
    Side,
    Size,
    Value,
    floats,
    grid,
    listed,
    window,
)


class Dense(Layer):
    """Fully connected along the last axis."""

    type: Literal["Dense"] = "Dense"
    units: Size
    activation: Activation = "linear"
    use_bias: bool = True
    kernel_initializer: Initializer = "glorot_uniform"

    def infer(self, values: Sequence[Value]) -> Inferred:
        shape = floats(values)
        if not shape:
            raise Mismatch("expects at least one axis besides the batch")
        out = (*shape[:-1], self.units)
        weights = ((shape[-1], self.units), *(((self.units,),) if self.use_bias else ()))
        return Inferred(Value(out), weights, 2 * math.prod(out) * shape[-1])


class Conv1D(Layer):
    """Convolution along a sequence (steps, channels)."""

    type: Literal["Conv1D"] = "Conv1D"
    filters: Size
    kernel_size: Side
    strides: Side = 1
    padding: Literal["valid", "same", "causal"] = "valid"
    activation: Activation = "linear"
    use_bias: bool = True
    kernel_initializer: Initializer = "glorot_uniform"

    def infer(self, values: Sequence[Value]) -> Inferred:
        steps, channels = floats(values, 2)
        out = (window(steps, self.kernel_size, self.strides, self.padding), self.filters)
        kernel = (self.kernel_size, channels, self.filters)
        weights = (kernel, *(((self.filters,),) if self.use_bias else ()))
        return Inferred(Value(out), weights, 2 * out[0] * math.prod(kernel))


class Conv2D(Layer):
    """Convolution over an image (height, width, channels)."""

    type: Literal["Conv2D"] = "Conv2D"
    filters: Size
    kernel_size: Pair
    strides: Pair = (1, 1)
    padding: Padding = "valid"
    activation: Activation = "linear"
    use_bias: bool = True
    kernel_initializer: Initializer = "glorot_uniform"

    def infer(self, values: Sequence[Value]) -> Inferred:
        *sides, channels = floats(values, 3)
        places = grid(sides, self.kernel_size, self.strides, self.padding)
        kernel = (*self.kernel_size, channels, self.filters)
        weights = (kernel, *(((self.filters,),) if self.use_bias else ()))
        columns = math.prod(places) * math.prod(kernel[:3]) * WORD
        return Inferred(
            Value((*places, self.filters)),
            weights,
            2 * math.prod(places) * math.prod(kernel),
            columns,
        )


class DepthwiseConv2D(Layer):
    """Convolution of every channel by itself."""

    type: Literal["DepthwiseConv2D"] = "DepthwiseConv2D"
    kernel_size: Pair
    strides: Pair = (1, 1)
    padding: Padding = "valid"
    depth_multiplier: Size = 1
    activation: Activation = "linear"
    use_bias: bool = True

    @model_validator(mode="after")
    def _square_stride(self) -> Self:
        if self.strides[0] != self.strides[1]:
            raise ValueError("strides must be equal along both sides")
        return self

    def infer(self, values: Sequence[Value]) -> Inferred:
        *sides, channels = floats(values, 3)
        places = grid(sides, self.kernel_size, self.strides, self.padding)
        kernel = (*self.kernel_size, channels, self.depth_multiplier)
        out = channels * self.depth_multiplier
        weights = (kernel, *(((out,),) if self.use_bias else ()))
        return Inferred(Value((*places, out)), weights, 2 * math.prod(places) * math.prod(kernel))


class _Pooling(Layer):
    padding: Padding = "valid"

    @model_validator(mode="before")
    @classmethod
    def _stride_of_window(cls, value: Any) -> Any:
        """Left out, windows lie side by side; written out, so that fingerprints agree."""
        if isinstance(value, dict) and value.get("strides") is None:
            return value | {"strides": value.get("pool_size", 2)}
        return value


class _Pooling1D(_Pooling):
    pool_size: Side = 2
    strides: Side

    def infer(self, values: Sequence[Value]) -> Inferred:
        steps, channels = floats(values, 2)
        places = window(steps, self.pool_size, self.strides, self.padding)
        out = (places, channels)
        return Inferred(Value(out), (), math.prod(out) * self.pool_size)


class _Pooling2D(_Pooling):
    pool_size: Pair = (2, 2)
    strides: Pair

    def infer(self, values: Sequence[Value]) -> Inferred:
        *sides, channels = floats(values, 3)
        places = grid(sides, self.pool_size, self.strides, self.padding)
        out = (*places, channels)
        return Inferred(Value(out), (), math.prod(out) * math.prod(self.pool_size))


class MaxPooling1D(_Pooling1D):
    """Largest value of a window along a sequence."""

    type: Literal["MaxPooling1D"] = "MaxPooling1D"


class AveragePooling1D(_Pooling1D):
    """Mean of a window along a sequence."""

    type: Literal["AveragePooling1D"] = "AveragePooling1D"


class MaxPooling2D(_Pooling2D):
    """Largest value of a window of an image."""

    type: Literal["MaxPooling2D"] = "MaxPooling2D"


class AveragePooling2D(_Pooling2D):
    """Mean of a window of an image."""

    type: Literal["AveragePooling2D"] = "AveragePooling2D"


class _GlobalPooling(Layer):
    rank: ClassVar[int]

    def infer(self, values: Sequence[Value]) -> Inferred:
        shape = floats(values, self.rank)
        return Inferred(Value(shape[-1:]), (), math.prod(shape))


class GlobalMaxPooling1D(_GlobalPooling):
    """Largest value along a sequence."""

    rank: ClassVar[int] = 2
    type: Literal["GlobalMaxPooling1D"] = "GlobalMaxPooling1D"


class GlobalAveragePooling1D(_GlobalPooling):
    """Mean along a sequence."""

    rank: ClassVar[int] = 2
    type: Literal["GlobalAveragePooling1D"] = "GlobalAveragePooling1D"


class GlobalMaxPooling2D(_GlobalPooling):
    """Largest value of an image, per channel."""

    rank: ClassVar[int] = 3
    type: Literal["GlobalMaxPooling2D"] = "GlobalMaxPooling2D"


class GlobalAveragePooling2D(_GlobalPooling):
    """Mean of an image, per channel."""

    rank: ClassVar[int] = 3
    type: Literal["GlobalAveragePooling2D"] = "GlobalAveragePooling2D"


class Flatten(Layer):
    """All axes but the batch become one."""

    type: Literal["Flatten"] = "Flatten"

    def infer(self, values: Sequence[Value]) -> Inferred:
        return Inferred(Value((math.prod(values[0].shape),), values[0].dtype))


class Reshape(Layer):
    """The same numbers under other axes."""

    type: Literal["Reshape"] = "Reshape"
    target_shape: Annotated[
        tuple[Size, ...], BeforeValidator(listed), Field(min_length=1, max_length=4)
    ]

    def infer(self, values: Sequence[Value]) -> Inferred:
        given = math.prod(values[0].shape)
        if math.prod(self.target_shape) != given:
            raise Mismatch(f"expects {math.prod(self.target_shape)} numbers, got {given}")
        return Inferred(Value(self.target_shape, values[0].dtype))


class Embedding(Layer):
    """A learned vector for each whole number; numbers out of range use the nearest valid one."""

    type: Literal["Embedding"] = "Embedding"
    input_dim: Size
    output_dim: Size

    def infer(self, values: Sequence[Value]) -> Inferred:
        if values[0].dtype != "int32":
            raise Mismatch("expects whole numbers; set input.dtype to int32")
        shape = (*values[0].shape, self.output_dim)
        return Inferred(Value(shape), ((self.input_dim, self.output_dim),))


class _Recurrent(Layer):
    gates: ClassVar[int]
    # Numbers of each unit and time step that are held at once, at the peak of a training step.
    held: ClassVar[int]
    units: Size
    return_sequences: bool = False

    def bias(self) -> Shape:
        """Shape of the bias."""
        return (self.gates * self.units,)

    def infer(self, values: Sequence[Value]) -> Inferred:
        steps, channels = floats(values, 2)
        width = self.gates * self.units
        weights = ((channels, width), (self.units, width), self.bias())
        out = (steps, self.units) if self.return_sequences else (self.units,)
        flops = 2 * steps * width * (channels + self.units)
        # Beside those the gradient of a whole output and, of each channel, the inputs by time and
        # the inputs' gradient, both in two layouts.
        held = self.held + 2 * self.return_sequences
        inner = steps * (held * self.units + 3 * channels) * WORD
        return Inferred(Value(out), weights, flops, inner)


class SimpleRNN(_Recurrent):
    """Recurrent layer without gates."""

    gates: ClassVar[int] = 1
    held: ClassVar[int] = 3
    type: Literal["SimpleRNN"] = "SimpleRNN"


class LSTM(_Recurrent):
    """Long short-term memory."""

    gates: ClassVar[int] = 4
    # Of `worker.training.fused`: 7 states of the kernel, the cells' states moved by a step, and 4
    # slopes twice while the list of steps becomes one array. Three more for what an allocator keeps
    # and huge pages round up: up to 17.3 were measured.
    held: ClassVar[int] = 19
    type: Literal["LSTM"] = "LSTM"


class GRU(_Recurrent):
    """Gated recurrent unit, reset after the matrix product as in Keras' default."""

    gates: ClassVar[int] = 3
    held: ClassVar[int] = 11
    type: Literal["GRU"] = "GRU"

    def bias(self) -> Shape:
        return (2, self.gates * self.units)


class Dropout(Layer):
    """Random zeros while training, seeded by round, client and step."""

    type: Literal["Dropout"] = "Dropout"
    rate: Fraction

    def infer(self, values: Sequence[Value]) -> Inferred:
        shape = floats(values)
        return Inferred(Value(shape), (), math.prod(shape), math.prod(shape) * WORD)


class LayerNormalization(Layer):
    """Each example's last axis to mean 0 and variance 1; keeps no statistics."""

    type: Literal["LayerNormalization"] = "LayerNormalization"
    epsilon: Epsilon = 1e-3

    def infer(self, values: Sequence[Value]) -> Inferred:
        shape = floats(values)
        if not shape:
            raise Mismatch("expects at least one axis besides the batch")
        width = (shape[-1],)
        return Inferred(Value(shape), (width, width), 8 * math.prod(shape))


class GroupNormalization(Layer):
    """Each example's groups of channels to mean 0 and variance 1; keeps no statistics."""

    type: Literal["GroupNormalization"] = "GroupNormalization"
    groups: Size = 32
    epsilon: Epsilon = 1e-3

    def infer(self, values: Sequence[Value]) -> Inferred:
        shape = floats(values)
        if len(shape) < 2 or shape[-1] % self.groups:
            raise Mismatch(f"expects channels divisible by {self.groups}, got {list(shape)}")
        width = (shape[-1],)
        return Inferred(Value(shape), (width, width), 8 * math.prod(shape))


class ActivationLayer(Layer):
    """An activation by itself."""

    type: Literal["Activation"] = "Activation"
    activation: Activation

    def infer(self, values: Sequence[Value]) -> Inferred:
        shape = floats(values)
        return Inferred(Value(shape), (), 4 * math.prod(shape))


class Add(Layer):
    """Sum of inputs of one shape."""

    merges: ClassVar[bool] = True
    type: Literal["Add"] = "Add"

    def infer(self, values: Sequence[Value]) -> Inferred:
        shapes = {floats([value]) for value in values}
        if len(shapes) != 1:
            raise Mismatch(f"expects equal shapes, got {sorted(map(list, shapes))}")
        shape = shapes.pop()
        return Inferred(Value(shape), (), (len(values) - 1) * math.prod(shape))


class Concatenate(Layer):
    """Inputs side by side along the last axis."""

    merges: ClassVar[bool] = True
    type: Literal["Concatenate"] = "Concatenate"

    def infer(self, values: Sequence[Value]) -> Inferred:
        shapes = [floats([value]) for value in values]
        if len({shape[:-1] for shape in shapes}) != 1 or not all(shapes):
            raise Mismatch("expects shapes that differ along the last axis only")
        return Inferred(Value((*shapes[0][:-1], sum(shape[-1] for shape in shapes))))
