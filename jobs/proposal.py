"""A request with its plan and its price: what it costs before anybody is asked.

The plan is the only source of both the price and, later, the training engine's numbers, and the
population's size and δ come from the registry, so a request cannot lie about its price. Nothing
here may look at data or write.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from accounting import curve
from accounting.curve import Price, Pricing
from accounting.plan import TrainingPlan, plan_of
from jobs import catalogue, floors
from jobs.settings import Settings
from jobs.situation import Situation
from jobs.tables_datasets import Dataset
from privacy_gateway import modelspec
from privacy_gateway.errors import FieldError, Refused
from privacy_gateway.modelspec import ModelSize
from privacy_gateway.rdp import NANO
from privacy_gateway.schemas import JobRequest

# A training step costs about three forward passes; one core does this many operations a second.
TRAINING_PASSES = 3
FLOPS_PER_CPU_SECOND = 5_000_000_000


@dataclass(frozen=True, slots=True)
class Proposal:
    """A request with everything that follows from it and the population's public size.

    Attributes:
        request: what was asked for.
        plan: the frozen training plan, source of mechanism and engine parameters.
        price: cost of one round, pico-nats by order.
        cost: cost of all rounds, pico-nats by order.
        epsilon_nano: stand-alone RDP ε of the job at the budget's δ, 1e-9, rounded up.
        size: the model's exact size.
        compute: bound on the work, from public numbers only.
    """

    request: JobRequest
    plan: TrainingPlan
    price: Price
    cost: tuple[int, ...]
    epsilon_nano: int
    size: ModelSize
    compute: dict[str, int]


def propose(
    settings: Settings,
    situation: Situation,
    request: JobRequest,
    *,
    pricing: Pricing = curve.EXACT,
    like: Proposal | None = None,
) -> Proposal:
    """Plan and price a request.

    Args:
        settings: where the operator put the floors.
        situation: the data set and its people.
        request: what is asked for.
        pricing: who prices.
        like: of the same model, loss and data set, whose size is known.

    Raises:
        Refused: `invalid_request`, `model_refused`, `price_disagreement` or `price_overflow`,
            naming the field.
    """
    floors.refuse_proximal_mu(request.algorithm)
    public_test = catalogue.has_public_test(situation.dataset)
    floors.refuse_evaluation(request, public_test=public_test)
    floors.refuse_trainer(settings, request)
    size = like.size if like else _fitting_model(settings, situation, request)
    plan = plan_for(request, situation.dataset, clients=situation.balance.clients)
    mechanism = plan.mechanism
    situation.balance.check_mechanism(mechanism)
    price = pricing.price(mechanism)
    delta = situation.balance.terms.delta_float
    epsilon = pricing.standalone_epsilon(mechanism, plan.charge_units, delta)
    return Proposal(
        request=request,
        plan=plan,
        price=price,
        cost=_cost(price, plan),
        epsilon_nano=_ceil_nano(epsilon),
        size=size,
        compute=_compute(situation, request, size),
    )


def plan_for(request: JobRequest, dataset: Dataset, *, clients: int) -> TrainingPlan:
    """The plan of a request on a data set, whose owner says whether others see the cohort.

    Raises:
        Refused: `invalid_request` naming the field.
    """
    return plan_of(request, clients=clients, cohort=dataset.manifest.get("cohort", "secret"))


def _fitting_model(settings: Settings, situation: Situation, request: JobRequest) -> ModelSize:
    """The model's size, once it is known to fit the data set and the limits."""
    spec = request.model.architecture
    size = modelspec.measure(spec, limits=floors.model_limits(settings))
    dataset = situation.dataset
    modelspec.check_fit(
        spec,
        loss=request.loss,
        feature_shape=tuple(dataset.feature_shape),
        feature_dtype=dataset.feature_dtype,
        classes=dataset.classes,
    )
    return size


def _cost(price: Price, plan: TrainingPlan) -> tuple[int, ...]:
    """The price of all rounds; one that cannot be stored is laid at the fields that make it."""
    try:
        return price.total(plan.charge_units)
    except Refused as refused:
        faults = [
            FieldError(
                "noise_multiplier", "is too small for so many rounds", plan.noise_multiplier
            ),
            FieldError("rounds", "are too many at so little noise", plan.rounds),
        ]
        raise Refused(refused.code, refused.detail, errors=faults) from refused


def _compute(situation: Situation, request: JobRequest, size: ModelSize) -> dict[str, int]:
    """Upper bound on the work: every client at the public cap of examples."""
    if request.split == "public_test":
        return _computed(size, 0, situation.dataset.test_examples * size.flops)
    examples = int(situation.dataset.manifest.get("examples_per_client", 1))
    updates = request.rounds * request.clients_per_round
    epochs = request.algorithm.local_epochs
    return _computed(size, updates, updates * examples * epochs * TRAINING_PASSES * size.flops)


def _computed(size: ModelSize, updates: int, flops: int) -> dict[str, int]:
    return {
        "parameters": size.parameters,
        "client_updates": updates,
        "flops": flops,
        "cpu_seconds_estimate": -(-flops // FLOPS_PER_CPU_SECOND),
    }


def _ceil_nano(epsilon: float) -> int:
    """ε in units of 1e-9, exact, rounded up."""
    return -int(-Fraction(epsilon) * NANO // 1)
