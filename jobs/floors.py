"""What no owner's policy can relax, and what this gateway does not do at all.

A floor is plain arithmetic on public numbers, decided in Python so that a careless policy cannot
widen it. Floors refuse with code `floor` beside the policy's and the budget's rules; what is not
built yet is refused as `unsupported` before anything is priced. Neither may ever look at data.
"""

from __future__ import annotations

from fractions import Fraction

from jobs.settings import Settings
from privacy_gateway.errors import FieldError, Refused
from privacy_gateway.modelspec import Limits
from privacy_gateway.schemas import JobRequest, Rule

CODE = "floor"
ALGORITHMS = ("dp_fedavg", "dp_fedsgd")


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
        Refused: `unsupported`, with every field at fault.
    """
    faults = [
        FieldError(field, message, value)
        for field, message, value, wrong in (
            ("kind", "only train is built", request.kind, request.kind != "train"),
            ("mock", "mock jobs run on the client's side, in pg.local", True, request.mock),
            (
                "sampling",
                "cohorts are drawn by poisson sampling, or whole with none",
                request.sampling,
                request.sampling == "fixed_size",
            ),
            (
                "algorithm.name",
                f"only {' and '.join(ALGORITHMS)} are built",
                request.algorithm.name,
                request.algorithm.name not in ALGORITHMS,
            ),
            (
                "algorithm.clip_norm",
                "adaptive clipping is not built; give a number",
                "adaptive",
                request.algorithm.clip_norm == "adaptive",
            ),
        )
        if wrong
    ]
    if faults:
        raise Refused("unsupported", f"{faults[0].field}: {faults[0].message}", errors=faults)


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
