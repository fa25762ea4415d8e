"""What no owner's policy can relax.

A floor is plain arithmetic on public numbers, decided in Python so that a careless policy cannot
widen it. Floors refuse with code `floor` beside the policy's and the budget's rules; they may never
look at data. What the workers cannot run is in `jobs.runnable`.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

from jobs.settings import Settings
from privacy_gateway.errors import invalid
from privacy_gateway.modelspec import Limits
from privacy_gateway.schemas import Algorithm, JobRequest, Rule

CODE = "floor"


def rules(
    settings: Settings,
    request: JobRequest,
    *,
    clients: int,
    delta: float,
    flops_per_round: int,
) -> list[Rule]:
    """Every floor the request lies below; empty when it stands on all of them.

    Args:
        settings: where the operator put the floors.
        request: the job asked for.
        clients: public number of people in the population.
        delta: δ of the population's budget.
        flops_per_round: bound on the arithmetic of one round.
    """
    # On public records nobody is drawn and no noise is added.
    drawn = request.split == "clients"
    checks = [
        _at_least(
            "clients_per_round", request.clients_per_round, settings.minimum_clients_per_round
        )
        if drawn
        else None,
        _at_least("noise_multiplier", request.noise_multiplier, settings.minimum_noise_multiplier)
        if drawn
        else None,
        _at_least("dataset", clients, settings.minimum_population_clients),
        _delta_small(delta, clients),
        _computable(flops_per_round, settings.maximum_flops_per_round),
    ]
    return [rule for rule in checks if rule is not None]


def model_limits(settings: Settings) -> Limits:
    """Largest model the operator lets in."""
    return Limits(parameters=settings.maximum_model_parameters)


def refuse_proximal_mu(algorithm: Algorithm) -> None:
    """μ means something to one algorithm only; silently ignored, it would look as if it did.

    Raises:
        Refused: `invalid_request` on `algorithm.proximal_mu`.
    """
    field, mu = "algorithm.proximal_mu", algorithm.proximal_mu
    if algorithm.name == "dp_fedprox" and not mu:
        raise invalid(field, "dp_fedprox needs a number above 0", value=mu)
    if algorithm.name != "dp_fedprox" and mu is not None:
        raise invalid(field, f"belongs to dp_fedprox, not to {algorithm.name}", value=mu)


def refuse_trainer(settings: Settings, request: JobRequest) -> None:
    """Only what the operator has installed is trained with, and only where clients train at all.

    Raises:
        Refused: `invalid_request` on `algorithm.trainer`.
    """
    field, name = "algorithm.trainer", request.algorithm.trainer
    if name is None:
        return
    if settings.trainer(name) is None:
        raise invalid(field, "is no trainer that is installed here", value=name)
    if request.algorithm.name not in ("dp_fedavg", "dp_ftrl") or request.kind != "train":
        raise invalid(field, "goes with dp_fedavg and dp_ftrl, in training", value=name)


def refuse_evaluation(request: JobRequest, *, public_test: bool) -> None:
    """An evaluation is one release of metrics of a model that was released before.

    On public test records it may as well be an upload: what is learned there is public already.

    Args:
        request: the job.
        public_test: whether the data set's owner declared test records public.

    Raises:
        Refused: `invalid_request` naming the field.
    """
    if request.split == "public_test":
        _refuse_split(request, public_test)
    if request.kind != "evaluate":
        return
    uploaded = request.initial is not None and request.initial.job is None
    if request.initial is None or (uploaded and request.split == "clients"):
        raise invalid("initial", "an evaluation names the job whose released model it measures")
    if request.rounds != 1:
        raise invalid("rounds", "an evaluation is one release", value=request.rounds, limit=1)
    if request.algorithm.clip_norm == "adaptive":
        raise invalid("algorithm.clip_norm", "an evaluation needs a fixed clip norm")
    if request.algorithm.name == "dp_ftrl":
        raise invalid("algorithm.name", "an evaluation has no tree of rounds", value="dp_ftrl")
    if "weights" in request.outputs or "dp_metrics" not in request.outputs:
        asked = ", ".join(request.outputs)
        raise invalid("outputs", "an evaluation gives dp_metrics and no weights", value=asked)


def _refuse_split(request: JobRequest, public_test: bool) -> None:
    """The owner alone says that test records are public, and only an evaluation is of them."""
    split = request.split
    if request.kind != "evaluate":
        raise invalid("split", "belongs to an evaluation", value=split)
    if not public_test:
        raise invalid("split", "the data set's owner declared no test records public", value=split)


def _at_least(field: str, value: float, floor: float) -> Rule | None:
    """The rule that fired when `value` is below `floor`."""
    if value >= floor:
        return None
    what = "has a population of" if field == "dataset" else "is"
    message = f"{field} {what} {value}; no policy can allow less than {floor}"
    return Rule(code=CODE, field=field, message=message, value=value, limit=floor)


def _delta_small(delta: float, clients: int) -> Rule | None:
    """δ must be below what publishing one client's data outright would need, with a margin."""
    limit = Fraction(1, 10 * clients)
    if _written(delta) <= limit:
        return None
    message = f"the budget's delta is {delta}; it must be at most 1/(10 · {clients})"
    return Rule(code=CODE, field="dataset", message=message, value=delta, limit=float(limit))


@lru_cache(maxsize=1024)
def _written(delta: float) -> Fraction:
    """As it is written: 1e-4 is one in ten thousand."""
    return Fraction(repr(delta))


def _computable(flops: int, most: int) -> Rule | None:
    """One round must end while the sandbox may run."""
    if flops <= most:
        return None
    message = f"one round may need {flops:.3g} operations; at most {most:.3g} are allowed"
    return Rule(code=CODE, field="model.architecture", message=message, value=flops, limit=most)
