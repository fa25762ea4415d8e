"""DP-FTRL (Kairouz et al. 2021, arXiv 2103.00039): each client in one leaf of a tree, no sampling.

On a client it is DP-FedAvg: local epochs of minibatch steps. What differs lies on the trusted side,
in who takes part and in the noise (`worker.tree`).
"""

from worker.task import TrainingTask
from worker.training.algorithms.registry import Algorithm, LocalUpdate, register
from worker.training.local import minibatch_training
from worker.training.models import Model


def _local(task: TrainingTask, model: Model) -> LocalUpdate:
    return minibatch_training(task, model, proximal_mu=0.0)


DP_FTRL = register(Algorithm("dp_ftrl", "tree_sum", _local))
