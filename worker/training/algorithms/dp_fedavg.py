"""DP-FedAvg (McMahan et al. 2018, arXiv 1710.06963): local epochs of minibatch steps per client."""

from worker.task import TrainingTask
from worker.training.algorithms.registry import Algorithm, LocalUpdate, register
from worker.training.local import minibatch_training
from worker.training.models import Model


def _local(task: TrainingTask, model: Model) -> LocalUpdate:
    return minibatch_training(task, model, proximal_mu=0.0)


DP_FEDAVG = register(Algorithm("dp_fedavg", "gaussian_sum", _local))
