"""The public vocabulary: what is sent to the gateway and what comes back.

Server and client share these models, so a field exists in one place only. Requests are strict:
unknown keys, `true` for a number, `"10"` or `10.0` for an integer are refused. ε, δ and seeds are
no part of a request: the owner's budget decides them, and a researcher who could choose the
randomness could undo the noise.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from privacy_gateway.aggregation import is_sum, only_sums
from privacy_gateway.faults import refusal_of
from privacy_gateway.first_weights import Initial, absent
from privacy_gateway.modelspec import ModelSpec

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Identifier = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_.:-]+$")]
PositiveFloat = Annotated[float, Field(gt=0, le=1e6)]

Output = Literal["weights", "dp_metrics", "receipt"]
Role = Literal["admin", "owner", "researcher", "auditor"]
SolveFor = Literal["rounds", "noise_multiplier", "clients_per_round"]


class Strict(BaseModel):
    """Base of everything that is parsed from a request."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class View(BaseModel):
    """Base of everything that is answered; unknown members are left out."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class ClientOptimizer(Strict):
    """The optimizer of one virtual client; starts at the round's weights, its state is reset."""

    name: Literal["sgd", "momentum", "adam"] = "sgd"
    learning_rate: PositiveFloat = 0.1


def _with_momentum(asked: Any) -> Any:
    """`sgd` with a momentum, as Keras and PyTorch write it, is `momentum`: never plain steps."""
    if isinstance(asked, dict) and asked.get("name", "sgd") == "sgd" and asked.get("momentum"):
        return asked | {"name": "momentum"}
    return asked


class ServerOptimizer(Strict):
    """Takes the noisy mean update as its gradient (FedOpt, Reddi et al. 2021).

    `momentum` is the decay of the running mean, 0.9 unless said: of momentum, and β₁ of adam and
    yogi. `sgd` with a momentum is taken as `momentum`; adagrad has none.
    """

    name: Literal["sgd", "momentum", "adam", "adagrad", "yogi"] = "sgd"
    learning_rate: PositiveFloat = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None


class Algorithm(Strict):
    """How a cohort's data becomes one update.

    `clip_norm` is the L2 bound C on one client's whole update; `"adaptive"` follows Andrew et al.
    2021. `proximal_mu`, above 0, belongs to dp_fedprox alone, which cannot do without it.
    `trainer` names local training that the operator has installed in the place of the algorithm's
    own; clipping, sum, noise and price stay the same. `aggregator` can be nothing but the sum of
    clipped updates: a median, a trimmed mean or Krum has no sensitivity that noise could cover.
    """

    name: Literal["dp_fedavg", "dp_fedsgd", "dp_fedprox", "dp_ftrl"]
    client_optimizer: ClientOptimizer = ClientOptimizer()
    server_optimizer: Annotated[ServerOptimizer, BeforeValidator(_with_momentum)] = (
        ServerOptimizer()
    )
    local_epochs: Annotated[int, Field(ge=1, le=100)] = 1
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 20
    clip_norm: Annotated[float, Field(gt=0, le=1e6)] | Literal["adaptive"] = 1.0
    proximal_mu: Annotated[float, Field(ge=0, le=1e6)] | None = None
    trainer: Identifier | None = Field(default=None, exclude_if=lambda value: value is None)
    aggregator: Annotated[Literal["sum"], BeforeValidator(only_sums)] = Field(
        default="sum", exclude_if=is_sum
    )


class ModelChoice(Strict):
    """The architecture to train, as data."""

    architecture: ModelSpec


class JobRequest(Strict):
    """What a researcher asks for. The privacy price follows from it and the population's size.

    `project` names a piece of work whose share of the budget the job draws on besides; one has to
    be a member of it. `initial` names the weights that training begins with, or
    that an evaluation measures. `split` says on whom it measures: `clients`, charged, or
    `public_test`, the test records that the data set's owner declared public, free.
    """

    dataset: Identifier
    kind: Literal["train", "evaluate", "query"] = "train"
    purpose: Name
    algorithm: Algorithm
    rounds: Annotated[int, Field(ge=1, le=1_000_000)]
    clients_per_round: Annotated[int, Field(ge=1, le=1_000_000_000)]
    noise_multiplier: Annotated[float, Field(ge=0.01, le=1e4)]
    sampling: Literal["poisson", "fixed_size", "none"] = "poisson"
    model: ModelChoice
    loss: Literal[
        "sparse_categorical_crossentropy", "binary_crossentropy", "mean_squared_error"
    ] = "sparse_categorical_crossentropy"
    metrics: Annotated[
        tuple[Literal["accuracy", "loss", "mean_absolute_error"], ...], Field(strict=False)
    ] = ("accuracy",)
    outputs: Annotated[tuple[Output, ...], Field(strict=False, min_length=1)] = (
        "weights",
        "receipt",
    )
    mock: bool = False
    project: Identifier | None = None
    initial: Initial | None = Field(default=None, exclude_if=absent)
    split: Literal["clients", "public_test"] = Field(
        default="clients", exclude_if=lambda value: value == "clients"
    )


class SweepRequest(Strict):
    """Body of `POST /v1/sweeps` and `POST /v1/quotes/sweep`: runs that stand or fall together."""

    jobs: Annotated[tuple[JobRequest, ...], Field(strict=False, min_length=1, max_length=100)]


class QuoteRequest(Strict):
    """Body of `POST /v1/quotes`."""

    job: JobRequest


class InverseRequest(Strict):
    """Body of `POST /v1/quotes/inverse`."""

    job: JobRequest
    solve_for: SolveFor


class NewPopulation(Strict):
    """Body of `POST /v1/populations`: the people, and the budget (ε, δ) that protects them.

    With `second_person`, a raise of the budget needs the approval of another owner or admin. The
    `filter` rdp takes any mechanism; gdp is exact, for unsampled Gaussians and nothing else.
    """

    name: Name
    privacy_unit: Name
    clients: Annotated[int, Field(ge=1, le=1_000_000_000)]
    epsilon: Annotated[float, Field(gt=0, le=1e4)]
    delta: Annotated[float, Field(ge=1e-12, le=1e-3)]
    reason: Name = "opened"
    second_person: bool = False
    filter: Literal["rdp", "gdp"] = "rdp"


class Grant(Strict):
    """Body of `POST /v1/populations/{id}/grants`."""

    epsilon: Annotated[float, Field(gt=0, le=1e4)]
    reason: Name


class Reason(Strict):
    """Body of freeze, unfreeze and the like."""

    reason: Name


class NewBlock(Strict):
    """Body of `POST /v1/populations/{id}/blocks`: people who are in no other block."""

    name: Identifier
    clients: Annotated[int, Field(ge=1, le=1_000_000_000)]
    reason: Name


class NewProject(Strict):
    """Body of `POST /v1/projects`."""

    name: Identifier
    title: Name


class SecondPerson(Strict):
    """Body of `PUT /v1/populations/{id}/second-person`."""

    needed: bool
    reason: Name


class Decide(Strict):
    """Body of `POST /v1/proposals/{id}/decision`; only the proposer withdraws, never approves."""

    decision: Literal["approve", "reject", "withdraw"]
    note: Annotated[str, Field(max_length=2000)] = ""


class QuotaRequest(Strict):
    """Body of `PUT /v1/populations/{id}/quotas/{researcher}` and `…/project-quotas/{project}`."""

    epsilon: Annotated[float, Field(gt=0, le=1e4)]


class NewPolicy(Strict):
    """Body of `POST /v1/datasets/{id}/policies`."""

    source: Annotated[str, Field(min_length=1, max_length=65_536)]
    tests: Annotated[str, Field(max_length=65_536)] = ""
    reason: Name = "draft"


class Rule(View):
    """One rule that fired: from the accountant, a floor, or the owner's policy."""

    code: str
    field: str = ""
    message: str = ""
    value: int | float | str | None = None
    limit: int | float | str | None = None


class Direction(View):
    """A request that passes now, by the fields in which it differs from the refused one."""

    changed: dict[str, int | float]
    epsilon: float


class CounterOffer(View):
    """The nearest request that passes now; `changed` names the fields that moved.

    `directions` holds the nearest one in each direction that is free (more noise, fewer rounds, a
    smaller cohort), the offer itself among them, nearest first: one step back is refused.
    """

    job: dict[str, Any]
    changed: dict[str, int | float]
    epsilon: float
    directions: list[Direction] = []


class Quote(View):
    """Price and verdict of a request, without side effect.

    `epsilon` is the stand-alone RDP ε of this job at the budget's δ; `budget_before` and
    `budget_after` are the odometer's ε spent, reservations included.
    """

    mechanism: dict[str, Any]
    epsilon: float
    epsilon_pld: float | None = None
    delta: float
    budget_epsilon: float
    budget_before: float
    budget_after: float | None
    fits: bool
    verdict: Literal["allow", "needs_approval", "deny"]
    refusals: list[Rule]
    counter_offer: CounterOffer | None
    how_many_more: int
    compute: dict[str, int | float]


class SweepBudget(View):
    """What a sweep does to one population's budget: the odometer before and after all of it."""

    population: str
    delta: float
    budget_epsilon: float
    budget_before: float
    budget_after: float


class SweepQuote(View):
    """Price and verdict of a sweep; each member's quote counts the members before it as reserved.

    `budgets` says for each population what the whole sweep does to it. `fits` and `verdict` are of
    all members together: `deny` as soon as one of them would be refused.
    """

    quotes: Annotated[list[Quote], Field(repr=False)]
    fits: bool
    verdict: Literal["allow", "needs_approval", "deny"]
    refused: list[int]
    budgets: list[SweepBudget]


class InverseAnswer(View):
    """`value` is admitted now, one step further is refused; None where nothing fits."""

    solve_for: SolveFor
    value: int | float | None
    epsilon: float | None
    job: Annotated[dict[str, Any] | None, Field(repr=False)]


class Missing(View):
    """People of one role whose approval a waiting job still lacks; `count` were demanded."""

    role: str
    count: int
    missing: int


class Decided(View):
    """What one person, of that role, said of a job that waited for approval, and why."""

    role: str
    decision: Literal["approve", "reject"]
    note: str


class JobView(View):
    """A job as its researcher sees it; nothing here depends on raw data.

    While it awaits approval, `waiting_for` says whose is missing, and `approve_before` until when
    it can be given; then they are empty and null. `decided` is what was said, with the notes.

    An evaluation on public test records draws nobody and adds no noise: `clients_per_round` and
    `noise_multiplier` are null there, whatever its request says.
    """

    id: str
    status: str
    dataset: str
    purpose: str
    kind: str
    rounds: int
    rounds_charged: int
    rounds_published: int
    clients_per_round: int | None
    noise_multiplier: float | None
    epsilon: float
    delta: float
    created_at: str
    updated_at: str
    failure: str | None = None
    waiting_for: list[Missing] = []
    approve_before: str | None = None
    decided: list[Decided] = []
    request: dict[str, Any]
    metrics: dict[str, float] | None = None


class SweepView(View):
    """Jobs that were admitted together; `open` until all of them have ended."""

    id: str
    status: Literal["open", "over"]
    created_at: str
    jobs: list[JobView]
    ended: int
    rounds: int
    rounds_charged: int


StrictModel = TypeVar("StrictModel", bound=BaseModel)


def parse(model: type[StrictModel], body: Any) -> StrictModel:
    """Validate parsed JSON against `model`.

    Raises:
        Refused: `invalid_request` (or `model_refused` when every fault lies below `model.`) with
            one `FieldError` per fault, in the order of the body.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise refusal_of(error) from error
