"""One job inside the sandbox: its model, its stores, its answers.

The only module that decides what is sent back, and it sends three things: first weights, a
round's integer sum, metrics of the public test set.
"""

from typing import Any

import numpy as np

from kit.ragged import Manifest, RaggedStore
from worker.task import TrainingTask
from worker.training import models, runtime
from worker.training.algorithms import (  # noqa: F401 - register
    custom,
    dp_fedavg,
    dp_fedprox,
    dp_fedsgd,
    dp_ftrl,
)
from worker.training.algorithms.registry import LocalUpdate, algorithm_of
from worker.training.evaluation import Evaluation, client_totals
from worker.training.federated import FederatedRound

Answer = tuple[dict[str, Any], list[np.ndarray[Any, Any]]]


class Session:
    """Everything a job's commands need, built once."""

    def __init__(self, task: dict[str, Any], stores: dict[str, Any]) -> None:
        """Configure TensorFlow, map the stores, build the model.

        Args:
            task: a `TrainingTask` as plain JSON values.
            stores: "train" (missing where nothing may be trained) and perhaps "test" → manifest
                and file descriptors.
        """
        self._task = TrainingTask.model_validate(task)
        runtime.configure(self._task)
        opened = {name: _store(described) for name, described in stores.items()}
        scales = [store.manifest.column(self._task.features).scale for store in opened.values()]
        self._model = models.build(self._task, scale=scales[0] if scales else 1.0)
        self._round = self._training(opened["train"]) if "train" in opened else None
        self._evaluation = (
            Evaluation(self._task, self._model, opened["test"]) if "test" in opened else None
        )

    def prepare(self) -> None:
        """Do ahead what the first round would have to; it is computed on nobody's data."""
        if self._round is not None:
            self._round.prepare()

    def answer(self, header: dict[str, Any], arrays: list[np.ndarray[Any, Any]]) -> Answer:
        """Answer one command; LookupError for an unknown one."""
        match header["command"]:
            case "initial_weights":
                return {"ok": True}, models.first_weights(self._task)
            case "round" if self._round is not None:
                sums = self._round.sum_of(
                    header["round"], arrays[0], arrays[1:], clip_norm=header.get("clip_norm")
                )
                return {"ok": True}, sums
            case "evaluate":
                metrics = self._evaluation.metrics(arrays) if self._evaluation else {}
                return {"ok": True, "metrics": metrics}, []
        raise LookupError("unknown command")

    def _local(self) -> LocalUpdate:
        """What one client computes."""
        if self._task.release == "evaluation":
            return client_totals(self._task, self._model)
        algorithm = algorithm_of(self._task)
        if self._task.trainer is not None:
            return custom.local(self._task, self._model, self._model.shapes)
        return algorithm.local(self._task, self._model)

    def _training(self, store: RaggedStore) -> FederatedRound:
        """The rounds over a store of clients."""
        return FederatedRound(self._task, store, self._local(), self._model.shapes)


def _store(described: dict[str, Any]) -> RaggedStore:
    """Map a store from inherited descriptors."""
    return RaggedStore(Manifest.parse(described["manifest"]), described["descriptors"])
