"""Loss and metrics of a released model: in the clear on a public test set, clipped on clients.

`Evaluation` is for public data only: the store handed to it is the one its owner declared public.
A metric of private data is a release and has a price, so of clients there are only totals that go
through the same clip, the same integer sum and the same noise as updates do; a client's own total
must never leave `worker.training.federated`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kit.ragged import RaggedStore
from privacy_gateway.modelspec import size_of
from worker.task import METRIC_BOUNDS, TrainingTask
from worker.training.algorithms.registry import ClientRows, LocalUpdate
from worker.training.models import Model

_BATCH_BYTES = 64 << 20


class Evaluation:
    """A model's metrics on a fixed public set."""

    def __init__(self, task: TrainingTask, model: Model, store: RaggedStore) -> None:
        """Prepare; the graph is traced at the first use."""
        self._features = store.column(task.features)
        self._labels = store.column(task.label)
        self._names = model.metric_names
        self._batch = max(1, min(4096, _BATCH_BYTES // size_of(task.model).activation_bytes))

        @tf.function(autograph=False, reduce_retracing=True)  # type: ignore[untyped-decorator]
        def totals(weights: list[Any], features: Any, labels: Any) -> list[Any]:
            values = model.metrics(weights, features, labels)
            return [tf.reduce_sum(tf.cast(value, tf.float64)) for value in values]

        self._totals = totals

    def metrics(self, weights: Sequence[npt.NDArray[np.float32]]) -> dict[str, float]:
        """Mean of each metric over the set, and `examples`; what is not finite is left out."""
        count = len(self._labels)
        if count == 0:
            return {"examples": 0}
        tensors = [tf.constant(w, tf.float32) for w in weights]
        sums = np.zeros(len(self._names))
        for start in range(0, count, self._batch):
            part = slice(start, start + self._batch)
            features, labels = tf.constant(self._features[part]), tf.constant(self._labels[part])
            sums += [float(value) for value in self._totals(tensors, features, labels)]
        means = dict(zip(self._names, (sums / count).tolist(), strict=True))
        return {**{k: v for k, v in means.items() if np.isfinite(v)}, "examples": count}


def client_totals(task: TrainingTask, model: Model) -> LocalUpdate:
    """One client's (total of each metric / its bound, number of examples), made to fit within C.

    Each of the k + 1 numbers is at most n, so the vector is at most n·√(k + 1) long. It is scaled
    by n alone, never by what was measured: a client weighs min(n, C/√(k + 1)), and the share of
    totals to count stays its mean metric. A value that is not finite counts as the bound.
    """
    bounds = [METRIC_BOUNDS[name] for name in model.metric_names]
    part = max(1, min(4096, _BATCH_BYTES // max(1, size_of(task.model).activation_bytes)))
    largest = task.clip_norm / float(np.sqrt(len(bounds) + 1))

    def within(value: Any, bound: float) -> Any:
        held = tf.clip_by_value(tf.cast(value, tf.float32) / bound, 0.0, 1.0)
        return tf.reduce_sum(tf.where(tf.math.is_finite(value), held, 1.0))

    def update(weights: list[Any], rows: ClientRows) -> list[Any]:
        def add(first: Any, total: Any) -> tuple[Any, Any]:
            last = tf.minimum(first + part, rows.stop)
            values = model.metrics(weights, rows.features[first:last], rows.labels[first:last])
            sums = [within(value, bound) for value, bound in zip(values, bounds, strict=True)]
            return last, total + tf.stack([*sums, tf.cast(last - first, tf.float32)])

        _, total = tf.while_loop(
            lambda first, total: first < rows.stop,
            add,
            (rows.start, tf.zeros([len(bounds) + 1])),
            parallel_iterations=1,
        )
        return [total * tf.minimum(1.0, largest / tf.maximum(total[-1], 1.0))]

    return update
