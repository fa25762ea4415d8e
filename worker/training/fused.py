"""Keras' LSTM with TensorFlow's fused kernel forward and a short loop backward.

Keras' own layer runs a graph of some forty operations for every time step, and as many again for
its gradient, each of which moves arrays that fit a cache in and out of a loop. Here all steps
forward are one operation; backward, a loop holds a step's few operations, and the gradients of all
weights are one matrix product over all steps.

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
            return [
                tf.transpose(tf.reshape(inputs, tf.shape(steps)), [1, 0, 2]),
                *_of_weights(steps, states.h, flat),
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
    count, units = states.h.shape[0], states.h.shape[-1]
    before, turned = _shifted(states.cs), tf.transpose(recurrent)

    def step(t: Any, hidden: Any, cell: Any, kept: Any) -> Any:
        # One step's states fit a cache, and what all gates share is computed once.
        i, f, o, ci, co = (
            state[t] for state in (states.i, states.f, states.o, states.ci, states.co)
        )
        if whole:
            hidden += upstream[t]
        cell += _through_tanh(co, hidden * o)
        gates = [
            _through_sigmoid(i, cell * ci),
            _through_sigmoid(f, cell * before[t]),
            _through_tanh(ci, cell * i),
            _through_sigmoid(o, hidden * co),
        ]
        signal = tf.concat(gates, 1)
        return t - 1, tf.matmul(signal, turned), cell * f, kept.write(t, signal)

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


def _of_weights(steps: Any, hidden: Any, signals: Any) -> Tensors:
    """Gradients of kernel, recurrent kernel and bias: one product, for which signals are read once.

    Args:
        steps: inputs (steps, batch, channels).
        hidden: hidden states (steps, batch, units).
        signals: gradients of the gates (steps · batch, 4·units).
    """
    channels, units = steps.shape[-1], hidden.shape[-1]
    read = tf.concat([steps, _shifted(hidden), tf.ones_like(hidden[..., :1])], 2)
    total = tf.matmul(tf.reshape(read, [-1, channels + units + 1]), signals, transpose_a=True)
    return [total[:channels], total[channels:-1], total[-1]]


def _through_sigmoid(value: Any, upstream: Any) -> Any:
    """Gradient of a sigmoid's argument where it has this value: one operation instead of three."""
    return tf.raw_ops.SigmoidGrad(y=value, dy=upstream)


def _through_tanh(value: Any, upstream: Any) -> Any:
    return tf.raw_ops.TanhGrad(y=value, dy=upstream)


def _shifted(states: Any) -> Any:
    """States before each step: zeros, then all but the last."""
    return tf.concat([tf.zeros_like(states[:1]), states[:-1]], 0)
