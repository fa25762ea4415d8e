"""Three readings of what was spent, each below the one before: RDP ≥ PLD ≥ PRV's lower bound.

The budget is kept in RDP. What the same mechanisms come to when composed numerically says how much
that overstates, and a lower bound that cannot be undercut says that the order is right: a ledger
whose RDP is below the PRV lower bound charges too little. All of it reads the spending as if it had
been planned in advance, at the full δ; none of it may ever decide an admission. The two numerical
accountants are optional (`pip install 'privacy-gateway[verify]'`) and imported when asked for only.

Sources: Mironov 2017 (arXiv:1702.07476) and Canonne, Kamath, Steinke 2020 (arXiv:2004.00010),
proposition 12, for RDP; Doroshenko et al. 2022 (arXiv:2207.04380) for PLD; Gopi, Lee, Wutschitz
2021 (arXiv:2106.02848), theorem 5.5, for PRV and its mesh.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from privacy_gateway import rdp

# Composing is quadratic beyond, and nobody reads an ε that large.
MAX_EPSILON: Final = 60.0
# Of PRV's bounds, in ε and as a share of the RDP reading; δ's is a thousandth, as advised.
EPSILON_ERRORS: Final = (0.005, 0.1)
EPSILON_SHARE: Final = 0.05
# What PRV costs grows with its grid; a coarser one only widens its bounds.
MAX_GRID: Final = 1 << 17
DELTA_SHARE: Final = 1e-3

Spent = tuple[Mapping[str, Any], int]
Reading = TypeVar("Reading")

_PLAIN_TREE: Final = {"kind", "noise_multiplier", "steps", "release"}


@dataclass(frozen=True, slots=True)
class Readings:
    """ε of a population's charges at its δ; None where a reading is not to be had.

    Attributes:
        rdp: by this package's own engine on the ledger's orders, at the full δ.
        pld: upper bound by dp-accounting's privacy loss distributions.
        prv_lower: lower bound by `prv-accountant`.
        prv_upper: its upper bound.
        ordered: whether rdp ≥ pld ≥ prv_lower, as far as they are known.
        notes: why a reading is missing, one sentence each.
    """

    rdp: float
    pld: float | None
    prv_lower: float | None
    prv_upper: float | None
    ordered: bool
    notes: tuple[str, ...]


def read(spent: Iterable[Spent], delta: float) -> Readings:
    """Compose what was charged.

    Args:
        spent: mechanisms in the ledger's form, and for how many rounds each was charged.
        delta: the population's δ.

    Raises:
        ValueError: a mechanism that cannot be priced.
    """
    runs = [
        (mechanism, rounds)
        for mechanism, rounds in spent
        if rounds > 0 and mechanism["kind"] != rdp.FREE
    ]
    notes: list[str] = []
    upper = rdp_epsilon(runs, delta)
    if not runs:
        return Readings(0.0, 0.0, 0.0, 0.0, True, ())
    pld, prv = None, None
    obstacle = _obstacle(runs, upper)
    if obstacle is not None:
        notes.append(f"PLD and PRV: {obstacle}")
    else:
        pld = _tried("PLD", "dp-accounting", lambda: _pld(runs, delta), notes)
        error = _epsilon_error(runs, upper, delta)
        prv = _tried("PRV", "prv-accountant", lambda: _prv(runs, delta, error), notes)
    lower, above = prv or (None, None)
    steps = [reading for reading in (upper, pld, lower) if reading is not None]
    ordered = all(high >= low for high, low in itertools.pairwise(steps))
    return Readings(upper, pld, lower, above, ordered, tuple(notes))


def rdp_epsilon(runs: Sequence[Spent], delta: float) -> float:
    """ε of the composed RDP curve at the full δ: min over a of ρ(a) + log1p(−1/a) − log(δ a)/(a−1).

    Orders are the ledger's grid, so this is an upper bound like any other.
    """
    total = [0.0] * len(rdp.ORDERS)
    for mechanism, rounds in runs:
        curve = rdp.curve(mechanism)
        total = [sum_ + rounds * part for sum_, part in zip(total, curve, strict=True)]
    if not any(total):
        return 0.0
    found = [
        part + math.log1p(-1.0 / order) - math.log(delta * order) / (order - 1.0)
        for order, part in zip(rdp.ORDERS, total, strict=True)
    ]
    return max(0.0, min(found))


def _obstacle(runs: Sequence[Spent], upper: float) -> str | None:
    """Why nobody composes these mechanisms numerically."""
    if any(mechanism["kind"] == "fixed_size_gaussian" for mechanism, _ in runs):
        return "there is no tight distribution for a sample of fixed size"
    if not all(_gaussian(mechanism) for mechanism, _ in runs):
        return "a mechanism is of a kind that they do not know"
    if upper > MAX_EPSILON:
        return f"ε is above {MAX_EPSILON:g}"
    return None


def _gaussian(mechanism: Mapping[str, Any]) -> tuple[float, float] | None:
    """A mechanism as a Poisson-sampled Gaussian (q, z); None where it is none.

    One participation in a tree of depth d is one Gaussian of sensitivity sqrt(d).
    """
    kind, z = mechanism["kind"], float(mechanism["noise_multiplier"])
    if kind == "gaussian":
        return 1.0, z
    if kind == "tree_gaussian" and mechanism.keys() <= _PLAIN_TREE:
        return 1.0, z / math.sqrt(int(mechanism["steps"]).bit_length())
    if kind in ("poisson_gaussian", "adaptive_clipping_gaussian"):
        return int(mechanism["clients_per_round"]) / int(mechanism["clients"]), z
    return None


def _tried(name: str, package: str, act: Callable[[], Reading], notes: list[str]) -> Reading | None:
    """The reading, or None and a note where its package is absent or gives up."""
    try:
        return act()
    except ImportError:
        notes.append(f"{name}: {package} is not installed (pip install 'privacy-gateway[verify]')")
    except (ArithmeticError, RuntimeError, ValueError, MemoryError) as error:
        notes.append(f"{name}: {package} gave up: {error}")
    return None


def _pld(runs: Sequence[Spent], delta: float) -> float:
    """Upper bound by privacy loss distributions, pessimistic."""
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant()
    for q, z, rounds in _merged(runs):
        event: Any = dp_accounting.GaussianDpEvent(z)
        if q < 1.0:
            event = dp_accounting.PoissonSampledDpEvent(q, event)
        accountant.compose(event, rounds)
    return float(accountant.get_epsilon(delta))


def _epsilon_error(runs: Sequence[Spent], upper: float, delta: float) -> float:
    """How exactly PRV is asked: a twentieth of ε, unless that takes too fine a grid."""
    least, most = EPSILON_ERRORS
    rounds = sum(rounds for _, rounds in runs)
    steps = math.sqrt(rounds / 2.0 * math.log(12.0 / (DELTA_SHARE * delta)))
    affordable = 2.0 * (upper + 3.0) * steps / MAX_GRID
    return max(affordable, min(most, max(least, EPSILON_SHARE * upper)))


def _prv(runs: Sequence[Spent], delta: float, error: float) -> tuple[float, float]:
    """Lower and upper bound by privacy random variables, `error` around the estimate."""
    import prv_accountant
    from prv_accountant import privacy_random_variables as known

    merged = _merged(runs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accountant = prv_accountant.PRVAccountant(
            prvs=[
                known.GaussianMechanism(z)
                if q == 1.0
                else known.PoissonSubsampledGaussianMechanism(q, z)
                for q, z, _ in merged
            ],
            eps_error=error,
            delta_error=DELTA_SHARE * delta,
            max_self_compositions=[rounds for _, _, rounds in merged],
        )
        lower, _, upper = accountant.compute_epsilon(delta, [rounds for _, _, rounds in merged])
    if not (math.isfinite(lower) and math.isfinite(upper)):
        raise ArithmeticError("its bounds are not finite")
    return max(0.0, float(lower)), float(upper)


def _merged(runs: Sequence[Spent]) -> list[tuple[float, float, int]]:
    """(q, z, rounds); all unsampled Gaussians are one, with z^-2 the sum of theirs."""
    sampled: dict[tuple[float, float], int] = {}
    precision = 0.0
    for mechanism, rounds in runs:
        form = _gaussian(mechanism)
        if form is None:
            raise ValueError(f"{mechanism['kind']} is no sampled Gaussian")
        if form[0] == 1.0:
            precision += rounds / form[1] ** 2
        else:
            sampled[form] = sampled.get(form, 0) + rounds
    merged = [(q, z, rounds) for (q, z), rounds in sampled.items()]
    return merged + ([(1.0, precision**-0.5, 1)] if precision else [])
