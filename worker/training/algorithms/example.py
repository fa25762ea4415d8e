"""An example of an installed trainer: one step on a smoothed gradient's sign (signSGD).

Bernstein et al. 2018 (arXiv 1802.04434). Not registered and not used by any algorithm: an operator
who wants it sets `PRIVACY_GATEWAY_TRAINERS=sign=worker.training.algorithms.example:SignStep`.
"""

from typing import Any, ClassVar

import tensorflow as tf

from worker.task import Event
from worker.training.algorithms.custom import Tensors, Trainer
from worker.training.algorithms.registry import ClientRows
from worker.training.local import full_batch_gradient


class SignStep(Trainer):
    """Every weight moves by the client's learning rate, against the sign of its mean gradient."""

    events: ClassVar[tuple[Event, ...]] = ("gaussian_sum", "tree_sum")

    def update(self, weights: Tensors, rows: ClientRows) -> Tensors:
        """Sign of −η·∇, times η; a client without rows does not move."""
        rate: Any = self.task.client_optimizer.learning_rate
        step = full_batch_gradient(self.task, self.model)(weights, rows)
        return [rate * tf.sign(part) for part in step]
