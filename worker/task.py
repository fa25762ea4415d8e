"""What the sandbox is told to do: architecture and numbers, nothing about people or budgets.

Shared by the trusted launcher and the sandboxed program. It must never carry a name, an id, a
credential, the noise multiplier or a key: the sandbox adds no noise and need not know how much.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from privacy_gateway.modelspec import Loss, ModelSpec, size_of

# Updates are sums of whole steps of C/GRID.
GRID = 1 << 20
# What one client adds to the count of clients within C, on the same grid: ± one half.
HALF = GRID // 2
# Per-example values of an evaluation are held within [0, bound]; public, the same for every job.
METRIC_BOUNDS: dict[str, float] = {"accuracy": 1.0, "loss": 10.0, "mean_absolute_error": 10.0}

Positive = Annotated[float, Field(gt=0, le=1e6)]
AlgorithmName = Literal["dp_fedavg", "dp_fedsgd", "dp_fedprox", "dp_ftrl"]
Event = Literal["gaussian_sum", "tree_sum"]
Metric = Literal["accuracy", "loss", "mean_absolute_error"]


class ClientOptimizer(BaseModel):
    """Optimizer of a client; state starts anew for every client and round."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: Literal["sgd", "momentum", "adam"] = "sgd"
    learning_rate: Positive = 0.1


class TrainingTask(BaseModel):
    """Everything the sandbox needs to turn a cohort into a clipped integer sum.

    Attributes:
        model: the architecture.
        algorithm: name in the registry of `worker.training.algorithms`.
        event: the mechanism that was priced; an algorithm with another one refuses to run.
        clip_norm: C, bound on the L2 norm of one client's whole update; the first one where it
            adapts.
        trainer: where local training that the operator installed is, `module:Class`; the
            algorithm's own otherwise.
        count_unclipped: also sum, for adaptive clipping, +½ for each client within C and −½ for
            each beyond.
        examples_per_client: public cap; a client with more takes part with a random choice of them.
        release: what a round gives: clipped updates of the model, or clipped totals of its metrics.
        features, label: columns of the store.
        shards: threads, one cohort shard each; the sum does not depend on it.
        initial_seed: public seed of the first weights and of shuffling; no privacy rests on it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    model: ModelSpec
    algorithm: AlgorithmName
    event: Event = "gaussian_sum"
    client_optimizer: ClientOptimizer = ClientOptimizer()
    local_epochs: Annotated[int, Field(ge=1, le=100)] = 1
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 20
    clip_norm: Positive
    trainer: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    count_unclipped: bool = False
    release: Literal["update", "evaluation"] = "update"
    proximal_mu: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    loss: Loss = "sparse_categorical_crossentropy"
    metrics: Annotated[tuple[Metric, ...], Field(strict=False)] = ("accuracy",)
    features: str = "features"
    label: str = "label"
    examples_per_client: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    shards: Annotated[int, Field(ge=1, le=64)] = 1
    initial_seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What is measured, in the order of an evaluation's totals."""
        return tuple(dict.fromkeys(("loss", *self.metrics)))

    @property
    def sum_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the arrays that a round sums, without the count of `count_unclipped`."""
        if self.release == "evaluation":
            return [(len(self.metric_names) + 1,)]
        return [tuple(shape) for shape in size_of(self.model).weight_shapes]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.model_dump(mode="json")
