"""What no owner's policy can relax, and what this gateway does not do at all.

A floor is plain arithmetic on public numbers, decided in Python so that a careless policy cannot
widen it. Floors refuse with code `floor` beside the policy's and the budget's rules; what is not
built yet is refused as `unsupported` before anything is priced. Neither may ever look at data.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from jobs.settings import Settings
from privacy_gateway.errors import FieldError, Refused, invalid
from privacy_gateway.modelspec import Limits
from privacy_gateway.schemas import Algorithm, JobRequest, Rule

CODE = "floor"
ALGORITHMS = ("dp_fedavg", "dp_fedsgd", "dp_fedprox")
OUTPUTS = ("weights", "receipt")


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
    checks = [
        _at_least(
            "clients_per_round", request.clients_per_round, settings.minimum_clients_per_round
        ),
        _at_least("noise_multiplier", request.noise_multiplier, settings.minimum_noise_multiplier),
        _at_least("dataset", clients, settings.minimum_population_clients),
        _delta_small(delta, clients),
        _computable(flops_per_round, settings.maximum_flops_per_round),
    ]
    return [rule for rule in checks if rule is not None]


def model_limits(settings: Settings) -> Limits:
    """Largest model the operator lets in."""
    return Limits(parameters=settings.maximum_model_parameters)


def refuse_unsupported(request: JobRequest) -> None:
    """Raise for a well-formed request that this gateway cannot run.

    Raises:
        Refused: `unsupported`, with every field at fault; `invalid_request` on
            `algorithm.proximal_mu` where the algorithm needs it, or has no use for it.
    """
    faults = [*_unbuilt(request), *_unbuilt_outputs(request)]
    if faults:
        raise Refused("unsupported", f"{faults[0].field}: {faults[0].message}", errors=faults)
    _refuse_proximal_mu(request.algorithm)


def _unbuilt(request: JobRequest) -> Iterator[FieldError]:
    algorithm = request.algorithm
    if request.kind != "train":
        yield FieldError("kind", "only train is built", request.kind)
    if request.mock:
        yield FieldError("mock", "mock jobs run on the client's side, in pg.local", True)
    if request.sampling == "fixed_size":
        message = "cohorts are drawn by poisson sampling, or whole with none"
        yield FieldError("sampling", message, request.sampling)
    if algorithm.name not in ALGORITHMS:
        message = f"only {_listed(ALGORITHMS)} are built"
        yield FieldError("algorithm.name", message, algorithm.name)
    if algorithm.clip_norm == "adaptive":
        message = "adaptive clipping is not built; give a number"
        yield FieldError("algorithm.clip_norm", message, "adaptive")


def _unbuilt_outputs(request: JobRequest) -> Iterator[FieldError]:
    for name in request.outputs:
        if name not in OUTPUTS:
            yield FieldError("outputs", f"only {_listed(OUTPUTS)} are built", name)


def _refuse_proximal_mu(algorithm: Algorithm) -> None:
    """μ means something to one algorithm only; silently ignored, it would look as if it did."""
    field, mu = "algorithm.proximal_mu", algorithm.proximal_mu
    if algorithm.name == "dp_fedprox" and not mu:
        raise invalid(field, "dp_fedprox needs a number above 0", value=mu)
    if algorithm.name != "dp_fedprox" and mu is not None:
        raise invalid(field, f"belongs to dp_fedprox, not to {algorithm.name}", value=mu)


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


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
    if Fraction(delta) <= limit:
        return None
    message = f"the budget's delta is {delta}; it must be at most 1/(10 · {clients})"
    return Rule(code=CODE, field="dataset", message=message, value=delta, limit=float(limit))


def _computable(flops: int, most: int) -> Rule | None:
    """One round must end while the sandbox may run."""
    if flops <= most:
        return None
    message = f"one round may need {flops:.3g} operations; at most {most:.3g} are allowed"
    return Rule(code=CODE, field="model.architecture", message=message, value=flops, limit=most)
