"""Keras' LSTM with TensorFlow's fused kernel forward and a short loop backward.

Keras' own layer runs a graph of some forty operations for every time step, and as many again for
its gradient, each of which moves arrays that fit a cache in and out of a loop. Here all steps
forward are one operation; backward, only what depends on the step after it stays in a loop, and
the gradients of all weights are one matrix product each over all steps.

The same function as Keras', rounding aside. It must never be taken where an argument differs from
the layer's defaults; the allow-list offers none.
"""

from typing import Any, TypeAlias

import keras
import tensorflow as tf

Tensors: TypeAlias = list[Any]


class LSTM(keras.layers.LSTM):  # type: ignore[misc]
    """`keras.layers.LSTM` from a state of zeros, without masks or dropout; weights are the same."""

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False
    ) -> Any:
        """Hidden states (batch, steps, units), or the last one (batch, units)."""
        cell = self.cell
        weights = [cell.kernel.value, cell.recurrent_kernel.value, cell.bias.value]
        return lstm(sequences, *weights, whole=self.return_sequences)


def take_over(model: Any) -> None:
    """Let a model's LSTM layers compute this way; weights, names and graph stay as they are."""
    for layer in model.layers:
        if type(layer) is keras.layers.LSTM:
            layer.__class__ = LSTM


def lstm(sequence: Any, kernel: Any, recurrent: Any, bias: Any, *, whole: bool) -> Any:
    """Long short-term memory (Hochreiter and Schmidhuber 1997) with Keras' order of gates.

    Args:
        sequence: float32 (batch, steps, channels); steps and channels are known.
        kernel: (channels, 4·units), gates in the order input, forget, candidate, output.
        recurrent: (units, 4·units).
        bias: (4·units,).
        whole: return the hidden state of every step, not of the last one only.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(sequence: Any, kernel: Any, recurrent: Any, bias: Any) -> Any:
        steps = tf.transpose(sequence, [1, 0, 2])
        states = _forward(steps, kernel, recurrent, bias)

        def gradient(upstream: Any) -> Tensors:
            if whole:
                upstream = tf.transpose(upstream, [1, 0, 2])
            signals = _backward(states, recurrent, upstream, whole=whole)
            flat = tf.reshape(signals, [-1, signals.shape[-1]])
            inputs = tf.matmul(flat, kernel, transpose_b=True)
            hidden = _shifted(states.h)
            return [
                tf.transpose(tf.reshape(inputs, tf.shape(steps)), [1, 0, 2]),
                tf.matmul(tf.reshape(steps, [-1, steps.shape[-1]]), flat, transpose_a=True),
                tf.matmul(tf.reshape(hidden, [-1, hidden.shape[-1]]), flat, transpose_a=True),
                tf.reduce_sum(flat, 0),
            ]

        return tf.transpose(states.h, [1, 0, 2]) if whole else states.h[-1], gradient

    return run(sequence, kernel, recurrent, bias)


def _forward(steps: Any, kernel: Any, recurrent: Any, bias: Any) -> Any:
    """Gates i, f, o, candidates ci, cells cs and co = tanh(cs), hidden states h, of all steps."""
    count, units = steps.shape[0], recurrent.shape[0]
    none = tf.zeros([tf.shape(steps)[1], units])
    unused = tf.zeros([units])
    return tf.raw_ops.BlockLSTMV2(
        seq_len_max=tf.constant(count, tf.int64),
        x=steps,
        cs_prev=none,
        h_prev=none,
        w=tf.concat([kernel, recurrent], 0),
        wci=unused,
        wcf=unused,
        wco=unused,
        b=bias,
        cell_clip=0.0,
        use_peephole=False,
    )


def _backward(states: Any, recurrent: Any, upstream: Any, *, whole: bool) -> Any:
    """Gradients of the gates before their activation, (steps, batch, 4·units)."""
    i, f, o, ci, co = states.i, states.f, states.o, states.ci, states.co
    count, units = states.h.shape[0], states.h.shape[-1]
    # What a cell's or, for the output gate, a hidden state's gradient is multiplied by.
    slopes = tf.concat(
        [i * (1 - i) * ci, f * (1 - f) * _shifted(states.cs), i * (1 - ci * ci), o * (1 - o) * co],
        2,
    )
    through = o * (1 - co * co)
    turned = tf.transpose(recurrent)

    def step(t: Any, hidden: Any, cell: Any, kept: Any) -> Any:
        if whole:
            hidden += upstream[t]
        cell += hidden * through[t]
        signal = tf.concat([cell, cell, cell, hidden], 1) * slopes[t]
        return t - 1, tf.matmul(signal, turned), cell * f[t], kept.write(t, signal)

    none = tf.zeros_like(states.h[0])
    *_, kept = tf.while_loop(
        lambda t, hidden, cell, kept: t >= 0,
        step,
        (
            tf.constant(count - 1),
            none if whole else upstream,
            none,
            tf.TensorArray(tf.float32, size=count, element_shape=[None, 4 * units]),
        ),
        parallel_iterations=1,
    )
    return kept.stack()


def _shifted(states: Any) -> Any:
    """States before each step: zeros, then all but the last."""
    return tf.concat([tf.zeros_like(states[:1]), states[:-1]], 0)
