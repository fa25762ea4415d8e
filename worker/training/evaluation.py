"""Loss and metrics of a released model on a public test set.

Public data only: the store handed in here is the one its owner declared public. Nothing about the
training clients is measured, because a metric of private data is a release and has a price.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from kit.ragged import RaggedStore
from privacy_gateway.modelspec import measure
from worker.task import TrainingTask
from worker.training.models import Model

_BATCH_BYTES = 64 << 20


class Evaluation:
    """A model's metrics on a fixed public set."""

    def __init__(self, task: TrainingTask, model: Model, store: RaggedStore) -> None:
        """Prepare; the graph is traced at the first use."""
        self._features = store.column(task.features)
        self._labels = store.column(task.label)
        self._names = model.metric_names
        self._batch = max(1, min(4096, _BATCH_BYTES // measure(task.model).activation_bytes))

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
