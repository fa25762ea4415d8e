"""DP-FedSGD (McMahan et al. 2018, arXiv 1710.06963): one full-batch gradient per client and round.

The update is −η·∇, with η the client's learning rate: the mean gradient over all of the client's
examples. `local_epochs`, `batch_size` and the client optimizer's name play no part.
"""

from worker.task import TrainingTask
from worker.training.algorithms.registry import Algorithm, LocalUpdate, register
from worker.training.local import full_batch_gradient
from worker.training.models import Model


def _local(task: TrainingTask, model: Model) -> LocalUpdate:
    return full_batch_gradient(task, model)


DP_FEDSGD = register(Algorithm("dp_fedsgd", "gaussian_sum", _local))
