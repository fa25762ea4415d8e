"""Non-adaptive readings of total spending, for reports only.

A stop rule on a composed PLD curve is no valid filter (arXiv:2602.06756); nothing here may decide
an admission.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import compute_epsilon

from accounting.curve import PLD_MAX_EPSILON, default_curve, pld_event
from accounting.mechanism import Kind, Mechanism


def mechanism_of(form: Mapping[str, Any]) -> Mechanism:
    """A mechanism back from its canonical form.

    Raises:
        Refused: `invalid_request` when the form is not one this version can price.
    """
    count_noise = form.get("clip_count_noise")
    return Mechanism(
        kind=cast("Kind", form["kind"]),
        noise_multiplier=float(form.get("noise_multiplier", 1.0)),
        clients=int(form.get("clients", 0)),
        clients_per_round=int(form.get("clients_per_round", 0)),
        steps=int(form.get("steps", 0)),
        clip_count_noise=None if count_noise is None else float(count_noise),
        release=form["release"],
        bands=int(form.get("bands", 0)),
    )


def nonadaptive_epsilons(
    spent: Iterable[tuple[Mapping[str, Any], int]], delta: float
) -> tuple[float, float | None]:
    """(RDP, PLD) ε at the full δ of mechanisms and how often each was run.

    PLD is None where one of them is sampled at fixed size, or the RDP ε is above 60.
    """
    runs = [(mechanism_of(form), rounds) for form, rounds in spent]
    if not runs:
        return 0.0, 0.0
    orders = default_curve(runs[0][0])[0]
    curve = sum(rounds * default_curve(mechanism)[1] for mechanism, rounds in runs)
    by_rdp = float(compute_epsilon(orders, curve, delta)[0])
    sampled = any(mechanism.kind == "fixed_size_gaussian" for mechanism, _ in runs)
    if sampled or by_rdp > PLD_MAX_EPSILON:
        return by_rdp, None
    accountant = PLDAccountant()
    for mechanism, rounds in runs:
        accountant.compose(pld_event(mechanism, rounds))
    return by_rdp, float(accountant.get_epsilon(delta))
