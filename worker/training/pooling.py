"""Max-pooling whose gradient is a few passes over whole arrays.

TensorFlow looks for each window's winner one pixel at a time, which took a fifth of a small
convolutional network's training. Windows that do not overlap are here folded along one side after
the other; each fold keeps by how much its right half won, and that sign steers the gradient back.
An activation that never falls commutes with the maximum, so a convolution's ReLU waits until
after it, where a window is one number.

The same function as Keras', also where numbers of a window are equal: the first one, row by row,
has the gradient. It must never be taken where windows overlap or are padded.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

Tensors: TypeAlias = list[Any]

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


class _Pooling:
    """What both layers do."""

    late = False

    def call(self, inputs: Any) -> Any:
        """Largest number of each window and channel."""
        sizes = tuple(self.pool_size)  # type: ignore[attr-defined]
        pooled = max_pool(inputs, sizes)
        return tf.nn.relu(pooled) if self.late else pooled


class MaxPooling1D(_Pooling, keras.layers.MaxPooling1D):  # type: ignore[misc]
    """`keras.layers.MaxPooling1D` of windows side by side."""


class MaxPooling2D(_Pooling, keras.layers.MaxPooling2D):  # type: ignore[misc]
    """`keras.layers.MaxPooling2D` of windows side by side."""


_KINDS = {keras.layers.MaxPooling1D: MaxPooling1D, keras.layers.MaxPooling2D: MaxPooling2D}


def take_over(model: Any) -> None:
    """Let a model's max-pooling layers compute this way where their windows are side by side."""
    for layer in model.layers:
        kind = _KINDS.get(type(layer))
        if kind is None or not _side_by_side(layer):
            continue
        layer.__class__ = kind
        source = layer.input._keras_history.operation  # noqa: SLF001 - the graph's own link
        alone = len(source._outbound_nodes) == 1  # noqa: SLF001
        relu = getattr(source, "activation", None) is keras.activations.relu
        if isinstance(source, _CONVOLUTIONS) and alone and relu:
            source.activation = keras.activations.linear
            layer.late = True


def _side_by_side(layer: Any) -> bool:
    """Every window lies in the picture, and none touches another."""
    sides = layer.input.shape[1:-1]
    whole = all(side % size == 0 for side, size in zip(sides, layer.pool_size, strict=True))
    fits = layer.padding == "valid" or whole
    return (
        fits
        and layer.data_format == "channels_last"
        and tuple(layer.strides) == tuple(layer.pool_size)
    )


def max_pool(rows: Any, sizes: Sequence[int]) -> Any:
    """Maximum over windows side by side.

    Args:
        rows: float32 (batch, sides…, channels); all but the batch known. What is left at the far
            ends is cut off.
        sizes: of a window, for each side.

    Returns:
        float32 (batch, sides // sizes…, channels).
    """
    sides = [int(side) // size for side, size in zip(rows.shape[1:-1], sizes, strict=True)]
    ends = [side * size for side, size in zip(sides, sizes, strict=True)]
    if ends != list(rows.shape[1:-1]):
        rows = rows[(slice(None), *(slice(end) for end in ends))]
    channels = int(rows.shape[-1])

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(rows: Any) -> Any:
        inner, leads, largest = channels, [], rows
        # The last side first: of equal numbers the one in the first row must win.
        for side, size in zip(reversed(sides), reversed(sizes), strict=True):
            largest, lead = _fold(tf.reshape(largest, [-1, size * inner]), size)
            leads.append(lead)
            inner *= side

        def gradient(upstream: Any) -> Any:
            for lead in reversed(leads):
                upstream = _unfold(upstream, lead)
            return tf.reshape(upstream, tf.shape(rows))

        return tf.reshape(largest, [-1, *sides, channels]), gradient

    return run(rows)


def _fold(rows: Any, size: int) -> tuple[Any, Tensors]:
    """Largest of `size` parts of each row, and by how much each part beat those before it."""
    first, *others = tf.split(rows, size, axis=1) if size > 1 else [rows]
    largest, leads = first, []
    for part in others:
        leads.append(part - largest)
        largest = tf.maximum(largest, part)
    return largest, leads


def _unfold(upstream: Any, leads: Tensors) -> Any:
    """Each row's gradient at the part that won, zeros at the others."""
    width = leads[0].shape[1] if leads else None
    rest = tf.reshape(upstream, [-1, width]) if leads else upstream
    parts = []
    for lead in reversed(leads):
        won = tf.raw_ops.ReluGrad(gradients=rest, features=lead)
        parts.append(won)
        rest = rest - won
    return tf.concat([rest, *reversed(parts)], axis=1) if leads else rest
