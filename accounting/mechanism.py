"""What one charge pays for: the mechanisms the gateway can price, and their dp-accounting events.

A mechanism is a frozen value with one canonical form; its digest is the key of the price cache and
stands in every charge. It must never hold an integer noise multiplier: dp-accounting (0.4.4 to
0.6.0) ignores the composition around a nested Gaussian whose noise multiplier is an `int`, and
prices 40 times too low.

The adjacency is client-level zero-out (`REPLACE_SPECIAL`). The fixed-size sampler is priced under
replace-one with half the noise multiplier, which covers zero-out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, get_args

import dp_accounting
from dp_accounting import NeighboringRelation

from accounting.errors import invalid
from privacy_gateway import canonical, rdp

Kind = Literal[
    "poisson_gaussian",
    "gaussian",
    "fixed_size_gaussian",
    "tree_gaussian",
    "adaptive_clipping_gaussian",
    "banded_gaussian",
    "public_data",
]
Release = Literal["update", "evaluation", "query"]

MAX_CLIENTS: Final = 10**9
MAX_ROUNDS: Final = 10**6
MIN_NOISE: Final = 0.01
MAX_NOISE: Final = 1e4

_SAMPLED: Final = (
    "poisson_gaussian",
    "fixed_size_gaussian",
    "adaptive_clipping_gaussian",
    "banded_gaussian",
)
# One correlated noise runs through all their releases: none can be paid for alone.
WHOLE: Final = ("tree_gaussian", "banded_gaussian")


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One charge unit: a round, a whole tree, or a whole run of a banded matrix.

    Attributes:
        kind: which row of the price table applies; `public_data` opens no person's data and is
            free.
        noise_multiplier: standard deviation of the noise on the sum, over the clip norm. For
            adaptive clipping the joint one of update and clip count together.
        clients: public size N of the population; 0 where the price does not depend on it.
        clients_per_round: expected (Poisson) or exact (fixed size) cohort; 0 likewise.
        steps: releases from one tree or banded matrix; 0 for other kinds.
        bands: b of a banded matrix, which splits the clients into b groups; 0 for other kinds.
        clip_count_noise: σ_b of the clipped-fraction query, adaptive clipping only.
        release: what is released; an evaluation on private clients is an event of its own.

    Raises:
        Refused: `invalid_request` naming the field, from the constructor.
    """

    kind: Kind
    noise_multiplier: float
    clients: int = 0
    clients_per_round: int = 0
    steps: int = 0
    clip_count_noise: float | None = None
    release: Release = "update"
    bands: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind) or self.release not in get_args(Release):
            raise invalid("mechanism", f"{self.kind} releasing {self.release} is unknown")
        check_noise("noise_multiplier", self.noise_multiplier)
        # Not a conversion of the caller's type but of ours: an accepted int must not survive.
        object.__setattr__(self, "noise_multiplier", float(self.noise_multiplier))
        if self.kind == rdp.FREE and self.release != "evaluation":
            raise invalid("mechanism", f"no {self.release} is free")
        if self.kind in _SAMPLED:
            check_count("clients", self.clients, MAX_CLIENTS)
            check_count("clients_per_round", self.clients_per_round, self.clients)
        if self.kind in WHOLE:
            check_count("steps", self.steps, MAX_ROUNDS)
        if self.kind == "banded_gaussian":
            self._check_bands()
        if self.kind == "adaptive_clipping_gaussian":
            update_noise(self.noise_multiplier, self.clip_count_noise)

    @property
    def whole(self) -> bool:
        """Whether the mechanism is charged in full at its start, without refund."""
        return self.kind in WHOLE

    @property
    def sampling_rate(self) -> float:
        """Rate q in (0, 1]; 1 where nothing is sampled. Within a group of a banded matrix."""
        if self.kind not in _SAMPLED:
            return 1.0
        return self.clients_per_round * max(1, self.bands) / self.clients

    def canonical(self) -> dict[str, Any]:
        """The stored form: integers and strings, members of this kind only."""
        form: dict[str, Any] = {
            "kind": self.kind,
            "noise_multiplier": repr(self.noise_multiplier),
            "release": self.release,
        }
        if self.kind == rdp.FREE:
            del form["noise_multiplier"]
        if self.kind in _SAMPLED:
            form |= {"clients": self.clients, "clients_per_round": self.clients_per_round}
        if self.kind in WHOLE:
            form["steps"] = self.steps
        if self.kind == "banded_gaussian":
            form["bands"] = self.bands
        if self.clip_count_noise is not None:
            form["clip_count_noise"] = repr(self.clip_count_noise)
        return form

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form."""
        return _digest(self)

    @property
    def neighboring_relation(self) -> NeighboringRelation:
        """Adjacency under which dp-accounting prices the event."""
        if self.kind == "fixed_size_gaussian":
            return NeighboringRelation.REPLACE_ONE
        return NeighboringRelation.REPLACE_SPECIAL

    def dp_event(self) -> dp_accounting.DpEvent:
        """The event of one charge unit."""
        if self.kind == rdp.FREE:
            return dp_accounting.NoOpDpEvent()
        gaussian = dp_accounting.GaussianDpEvent(self.noise_multiplier)
        if self.kind == "gaussian":
            return gaussian
        if self.kind == "tree_gaussian":
            return dp_accounting.SingleEpochTreeAggregationDpEvent(
                self.noise_multiplier, self.steps
            )
        if self.kind == "fixed_size_gaussian":
            return dp_accounting.SampledWithoutReplacementDpEvent(
                self.clients,
                self.clients_per_round,
                dp_accounting.GaussianDpEvent(self.noise_multiplier / 2.0),
            )
        sampled = dp_accounting.PoissonSampledDpEvent(self.sampling_rate, gaussian)
        if self.kind == "banded_gaussian":
            return dp_accounting.SelfComposedDpEvent(sampled, self.participations)
        return sampled

    @property
    def participations(self) -> int:
        """How often one client's data can enter one charge unit."""
        return banded_rounds(self.steps, self.bands) if self.kind == "banded_gaussian" else 1

    def composed_event(self, rounds: int) -> dp_accounting.DpEvent:
        """The event of `rounds` charge units."""
        check_count("rounds", rounds, MAX_ROUNDS)
        return dp_accounting.SelfComposedDpEvent(self.dp_event(), rounds)

    def _check_bands(self) -> None:
        check_count("bands", self.bands, self.steps)
        # Each of the b groups holds N/b clients, and a cohort is drawn from one group.
        check_count("clients_per_round", self.clients_per_round, self.clients // self.bands)


@lru_cache(maxsize=4096)
def _digest(mechanism: Mechanism) -> str:
    return canonical.digest(mechanism.canonical())


def update_noise(noise_multiplier: float, clip_count_noise: float | None) -> float:
    """Noise multiplier left for the update when the clipped count shares the budget of a round.

    z_update = (z⁻² − (2 σ_b)⁻²)^(−1/2), Andrew et al. 2021 (arXiv:1905.03871), theorem 1.

    Args:
        noise_multiplier: the joint z that is priced.
        clip_count_noise: σ_b, standard deviation of the noise on the count of clipped clients.

    Raises:
        Refused: `invalid_request` on `noise_multiplier` when z ≥ 2 σ_b: the count alone would
            cost more than the whole.
    """
    if clip_count_noise is None:
        raise invalid("clip_count_noise", "is needed for adaptive clipping")
    check_noise("clip_count_noise", clip_count_noise)
    if noise_multiplier >= 2.0 * clip_count_noise:
        raise invalid(
            "noise_multiplier",
            "adaptive clipping needs noise_multiplier < 2 · clip_count_noise; take more clients "
            "per round or a fixed clip norm",
            value=noise_multiplier,
            limit=2.0 * clip_count_noise,
        )
    return 1.0 / math.sqrt(noise_multiplier**-2 - (2.0 * clip_count_noise) ** -2)


def banded_rounds(steps: int, bands: int) -> int:
    """Charge units of an amplified BandMF run: ceil(T / b) Poisson-sampled Gaussians.

    Source: Choquette-Choo et al. 2023 (arXiv:2306.08153), theorem 4; each of the b groups of
    clients is sampled from once every b steps.
    """
    check_count("steps", steps, MAX_ROUNDS)
    check_count("bands", bands, steps)
    return -(-steps // bands)


def check_count(field: str, value: object, most: int) -> int:
    """A whole number from 1 to `most`; never a bool, a float or text.

    Raises:
        Refused: `invalid_request` naming `field`.
    """
    if type(value) is not int:
        raise invalid(field, "must be a whole number", value=_shown(value))
    if not 1 <= value <= most:
        raise invalid(field, f"must be between 1 and {most}", value=value, limit=most)
    return value


def check_noise(field: str, value: object) -> float:
    """A finite number from 0.01 to 1e4, returned as a float.

    Raises:
        Refused: `invalid_request` naming `field`.
    """
    return check_number(field, value, MIN_NOISE, MAX_NOISE)


def check_number(field: str, value: object, least: float, most: float) -> float:
    """A finite number from `least` to `most`; never a bool or text.

    Raises:
        Refused: `invalid_request` naming `field`.
    """
    if type(value) is not float and type(value) is not int:
        raise invalid(field, "must be a number", value=_shown(value))
    number = float(value) if abs(value) < 1e300 or isinstance(value, float) else math.inf
    if not math.isfinite(number) or not least <= number <= most:
        raise invalid(
            field, f"must be between {least:g} and {most:g}", value=_shown(value), limit=most
        )
    return number


def _shown(value: object) -> str:
    return repr(value)[:80]
