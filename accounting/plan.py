"""The one frozen plan from which both the price and the training engine's numbers follow.

Because the mechanism that is charged and the parameters that are trained with are properties of
the same value, they cannot disagree. A plan must never hold ε, δ or a seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from accounting.errors import invalid
from accounting.mechanism import (
    MAX_CLIENTS,
    MAX_ROUNDS,
    Kind,
    Mechanism,
    Release,
    check_count,
    check_noise,
    check_number,
    update_noise,
)
from privacy_gateway import rdp
from privacy_gateway.schemas import JobRequest

Sampling = Literal["poisson", "fixed_size", "none"]
Cohort = Literal["secret", "visible"]

MAX_CLIP_NORM: Final = 1e6
# Far below, one step of the engine's grid C/2²⁰ is no double any more and nothing is clipped.
MIN_CLIP_NORM: Final = 1e-6
CLIP_COUNT_NOISE_PER_CLIENT: Final = 0.05
# Adaptive clipping: first C, target share of clients below C, rate of the geometric update; the
# values of Andrew et al. 2021 (arXiv:1905.03871), section 3. Public, and the same for every job.
INITIAL_CLIP_NORM: Final = 0.1
CLIP_QUANTILE: Final = 0.5
CLIP_LEARNING_RATE: Final = 0.2

_RELEASES: Final[dict[str, Release]] = {
    "train": "update",
    "evaluate": "evaluation",
    "query": "query",
}


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What will be run, in numbers that have been checked.

    Attributes:
        population_clients: public size N, from the registry, never from the request.
        clients_per_round: expected cohort m; q = m / N and the fixed denominator is m.
        rounds: noisy releases asked for.
        noise_multiplier: z; noise of standard deviation z·C on the sum.
        sampling: how a cohort is drawn.
        clip_norm: C, or None for adaptive clipping.
        algorithm: name of the algorithm; `dp_ftrl` is priced as a tree, or as a banded matrix.
        release: what a round releases.
        cohort: `visible` where anybody untrusted learns who was drawn; then sampling hides nobody
            and every round is priced as if all took part (q = 1).
        bands: b of the banded matrix mechanism that `dp_ftrl` uses instead of a tree.
        public: the one release is measured on public records alone; cohort and noise are not used.

    Raises:
        Refused: `invalid_request` naming the field, from the constructor.
    """

    population_clients: int
    clients_per_round: int
    rounds: int
    noise_multiplier: float
    sampling: Sampling = "poisson"
    clip_norm: float | None = 1.0
    algorithm: str = "dp_fedavg"
    release: Release = "update"
    cohort: Cohort = "secret"
    bands: int | None = None
    public: bool = False

    def __post_init__(self) -> None:
        check_count("clients", self.population_clients, MAX_CLIENTS)
        check_count("clients_per_round", self.clients_per_round, self.population_clients)
        check_count("rounds", self.rounds, MAX_ROUNDS)
        object.__setattr__(
            self, "noise_multiplier", check_noise("noise_multiplier", self.noise_multiplier)
        )
        if self.clip_norm is not None:
            _check_clip_norm(self.clip_norm)
        self._check_sampling()

    @property
    def mechanism(self) -> Mechanism:
        """One charge unit of this plan."""
        kind = self._kind
        if kind == rdp.FREE:
            return Mechanism(kind, noise_multiplier=1.0, release=self.release)
        sampled = kind not in ("gaussian", "tree_gaussian")
        size = self.population_clients if self.cohort == "visible" else self.clients_per_round
        return Mechanism(
            kind=kind,
            noise_multiplier=self.noise_multiplier,
            clients=self.population_clients if sampled else 0,
            clients_per_round=size if sampled else 0,
            steps=self._steps,
            clip_count_noise=self.clip_count_noise,
            release=self.release,
            bands=self.bands or 0,
        )

    @property
    def charge_units(self) -> int:
        """How many mechanisms the whole plan costs: rounds, trees, or one banded matrix."""
        if self._kind == "tree_gaussian":
            return -(-self.rounds // self._steps_per_tree)
        return 1 if self._kind == "banded_gaussian" else self.rounds

    @property
    def clip_count_noise(self) -> float | None:
        """σ_b of the clipped-fraction query; None for a fixed clip norm."""
        if self.clip_norm is not None:
            return None
        return CLIP_COUNT_NOISE_PER_CLIENT * self.clients_per_round

    def engine_parameters(self) -> dict[str, float | int | str | None]:
        """What the training engine gets, and all it gets.

        `noise_multiplier` is the one for the update (above the priced one with adaptive clipping),
        `denominator` is the fixed public q·N, `sampling_rate` is q. Adaptive clipping adds its
        public constants, a tree the number of rounds in one pass over the population.
        """
        noise = self.noise_multiplier
        if self.clip_count_noise is not None:
            noise = update_noise(noise, self.clip_count_noise)
        return {
            "rounds": self.rounds,
            "clients": self.population_clients,
            "clients_per_round": self.clients_per_round,
            "sampling": self.sampling,
            "sampling_rate": self.clients_per_round / self.population_clients,
            "denominator": self.clients_per_round,
            "noise_multiplier": noise,
            "clip_norm": self.clip_norm,
            "clip_count_noise": self.clip_count_noise,
            **self._more_parameters(),
        }

    def _more_parameters(self) -> dict[str, float | int | str | None]:
        """What only some mechanisms need."""
        if self._kind == "tree_gaussian":
            return {"tree_rounds": self._steps_per_tree}
        if self.clip_norm is not None:
            return {}
        return {
            "initial_clip_norm": INITIAL_CLIP_NORM,
            "clip_quantile": CLIP_QUANTILE,
            "clip_learning_rate": CLIP_LEARNING_RATE,
        }

    def changed(
        self,
        *,
        rounds: int | None = None,
        noise_multiplier: float | None = None,
        clients_per_round: int | None = None,
    ) -> TrainingPlan:
        """The same plan with one number moved, checked again."""
        return replace(
            self,
            rounds=self.rounds if rounds is None else rounds,
            noise_multiplier=(
                self.noise_multiplier if noise_multiplier is None else noise_multiplier
            ),
            clients_per_round=(
                self.clients_per_round if clients_per_round is None else clients_per_round
            ),
        )

    @property
    def _kind(self) -> Kind:
        if self.public:
            return "public_data"
        if self.algorithm == "dp_ftrl":
            return "tree_gaussian" if self.bands is None else "banded_gaussian"
        if self.clip_norm is None:
            return "adaptive_clipping_gaussian"
        if self.cohort == "visible":
            return "gaussian"
        if self.sampling == "fixed_size":
            return "fixed_size_gaussian"
        return "gaussian" if self.sampling == "none" else "poisson_gaussian"

    @property
    def _steps_per_tree(self) -> int:
        """Disjoint cohorts in one pass over the population; a client enters a tree once."""
        return self.population_clients // self.clients_per_round

    @property
    def _steps(self) -> int:
        """Releases of one correlated noise; 0 where the noise of each round is its own."""
        if self._kind == "tree_gaussian":
            return min(self.rounds, self._steps_per_tree)
        return self.rounds if self._kind == "banded_gaussian" else 0

    def _check_sampling(self) -> None:
        """Combinations that no row of the price table covers are refused, not approximated."""
        if self.sampling not in ("poisson", "fixed_size", "none"):
            raise invalid("sampling", "must be poisson, fixed_size or none", value=self.sampling)
        if self.cohort not in ("secret", "visible"):
            raise invalid("cohort", "must be secret or visible", value=self.cohort)
        if self.algorithm == "dp_ftrl":
            self._check_ftrl()
            return
        if self.bands is not None:
            raise invalid("bands", "belong to dp_ftrl alone", value=self.bands)
        if self.sampling == "none" and self.clients_per_round != self.population_clients:
            raise invalid(
                "clients_per_round",
                f"without sampling every one of the {self.population_clients} clients takes part",
                value=self.clients_per_round,
                limit=self.population_clients,
            )
        if self.clip_norm is None:
            if self.sampling == "fixed_size":
                raise invalid("algorithm.clip_norm", "adaptive clipping needs poisson sampling")
            update_noise(self.noise_multiplier, self.clip_count_noise)

    def _check_ftrl(self) -> None:
        """A tree takes the clients in disjoint cohorts; a banded matrix samples within groups."""
        if self.clip_norm is None:
            raise invalid("algorithm.clip_norm", "dp_ftrl needs a fixed clip norm")
        if self.bands is None:
            if self.sampling != "none":
                raise invalid("sampling", "dp_ftrl needs sampling none", value=self.sampling)
            return
        if self.sampling != "poisson" or self.cohort == "visible":
            raise invalid("sampling", "a banded matrix needs poisson sampling, and in secret")
        check_count("bands", self.bands, self.rounds)
        check_count("clients_per_round", self.clients_per_round, self._group)

    @property
    def _group(self) -> int:
        """Clients in one of a banded matrix's groups."""
        return self.population_clients // (self.bands or 1)


def plan_of(request: JobRequest, *, clients: int, cohort: Cohort = "secret") -> TrainingPlan:
    """The plan of a request against a population of `clients`.

    Args:
        request: a validated request; its numbers are checked again, because a wrong one that
            reaches dp-accounting is priced at zero.
        clients: N from the registry.
        cohort: whether the data set's owner says that others learn who was drawn.

    Raises:
        Refused: `invalid_request` naming the field.
    """
    clip_norm = request.algorithm.clip_norm
    return TrainingPlan(
        population_clients=clients,
        clients_per_round=request.clients_per_round,
        rounds=request.rounds,
        noise_multiplier=request.noise_multiplier,
        sampling=request.sampling,
        clip_norm=None if clip_norm == "adaptive" else _check_clip_norm(clip_norm),
        algorithm=request.algorithm.name,
        release=_RELEASES[request.kind],
        cohort=cohort,
        public=request.split == "public_test",
    )


def check_clients(field: str, stated: int, registered: int) -> None:
    """A client count in a request may only repeat the registry's.

    Raises:
        Refused: `invalid_request` naming `field`, with both numbers.
    """
    check_count(field, stated, MAX_CLIENTS)
    if stated != registered:
        raise invalid(
            field,
            f"the population has {registered} clients, not {stated}",
            value=stated,
            limit=registered,
        )


def _check_clip_norm(value: object) -> float:
    return check_number("algorithm.clip_norm", value, MIN_CLIP_NORM, MAX_CLIP_NORM)
