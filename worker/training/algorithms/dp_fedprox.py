"""DP-FedProx (Li et al. 2020, arXiv 1812.06127): DP-FedAvg whose clients are drawn to the server.

Each local gradient gains μ·(w − w_round), which holds back clients with unusual data.
"""

from worker.task import TrainingTask
from worker.training.algorithms.registry import Algorithm, LocalUpdate, register
from worker.training.local import minibatch_training
from worker.training.models import Model


def _local(task: TrainingTask, model: Model) -> LocalUpdate:
    return minibatch_training(task, model, proximal_mu=task.proximal_mu)


DP_FEDPROX = register(Algorithm("dp_fedprox", "gaussian_sum", _local))
