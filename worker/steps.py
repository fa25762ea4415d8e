"""One paid round by its plan: who takes part, under which noise, and what is kept for the next.

Everything that was priced is read from the plan, so what runs is what was charged. State that
passes from round to round is released or follows from what was released, with one exception: the
key of a tree that is not finished. Nothing here may know the database, and whoever calls `step`
has charged the round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from accounting.plan import TrainingPlan
from worker.aggregate import (
    Gaussian,
    ServerOptimizer,
    ServerState,
    Sums,
    Weights,
    check_count,
    run_round,
    sigma_of,
)
from worker.ahead import NoiseAhead
from worker.clipping import AdaptiveClipping
from worker.noise import NoiseSource
from worker.sampling import Clients, draw_cohort
from worker.trainers import nothing
from worker.tree import Tree

# (round, cohort, weights, C where it adapts, what to do meanwhile) → raw sums of the cohort.
Train = Callable[[int, Clients, Weights, float | None, Callable[[], None]], Sums]


@dataclass(frozen=True, slots=True)
class _Draw:
    """A round's cohort and noise, and the key that the next round needs."""

    cohort: Clients
    noise: Gaussian
    key: bytes | None = None


class Stepper:
    """The rounds of one plan, one after the other; not thread-safe."""

    def __init__(self, plan: TrainingPlan, optimizer: ServerOptimizer) -> None:
        """Read the plan.

        Args:
            plan: what was priced.
            optimizer: what turns a noised mean update into a step.
        """
        self._plan = plan
        self._optimizer = optimizer
        parameters = plan.engine_parameters()
        self._noise = _number(parameters["noise_multiplier"])
        self._denominator = _number(parameters["denominator"])
        self._tree_rounds = int(_number(parameters.get("tree_rounds", 0)))
        self._tree: tuple[bytes, Tree] | None = None
        self._clipping: AdaptiveClipping | None = None
        self.first_norm = _number(plan.clip_norm or parameters["initial_clip_norm"])
        if plan.clip_norm is None:
            self._clipping = AdaptiveClipping(
                quantile=_number(parameters["clip_quantile"]),
                learning_rate=_number(parameters["clip_learning_rate"]),
                count_noise=_number(parameters["clip_count_noise"]),
                denominator=self._denominator,
            )

    def norm_of(self, state: ServerState) -> float | None:
        """C of the round that follows `state`, where it adapts; None where it is fixed."""
        if self._clipping is None:
            return None
        return self.first_norm if state.clip_norm is None else state.clip_norm

    def step(
        self,
        state: ServerState,
        round_number: int,
        source: NoiseSource,
        train: Train,
        meanwhile: Callable[[], None] = nothing,
    ) -> ServerState:
        """Draw, train, noise, move.

        Args:
            state: after the round before; it is not changed.
            round_number: counts from 1.
            source: this round's own entropy, see `worker.noise`.
            train: asks the sandboxes.
            meanwhile: called while they compute, before the noise is drawn.

        Raises:
            AggregateInvalid: what came back cannot be a sum of clipped updates.
        """
        drawn = self._draw(state, round_number, source)
        norm = self.norm_of(state)
        noise = NoiseAhead(drawn.noise, sigma_of(self._noise), [w.shape for w in state.weights])

        def waiting() -> None:
            meanwhile()
            noise.draw()

        sums = list(train(round_number, drawn.cohort, state.weights, norm, waiting))
        count = sums.pop() if self._clipping is not None and sums else None
        moved = run_round(
            state,
            sums,
            clients=len(drawn.cohort),
            clip_norm=self.first_norm if norm is None else norm,
            noise_multiplier=self._noise,
            denominator=self._denominator,
            optimizer=self._optimizer,
            source=noise,
        )
        if self._clipping is None or norm is None or count is None:
            return replace(moved, noise_key=drawn.key)
        check_count(count, len(drawn.cohort))
        counted = source.derive(f"round/{round_number}/clip_count")
        return replace(moved, clip_norm=self._clipping.next_norm(norm, count, counted))

    def _draw(self, state: ServerState, round_number: int, source: NoiseSource) -> _Draw:
        """Who takes part and which noise is added."""
        if self._tree_rounds:
            return self._draw_from_tree(state, round_number, source)
        cohort = draw_cohort(
            self._plan.sampling,
            self._plan.population_clients,
            self._plan.clients_per_round,
            source.derive(f"round/{round_number}/cohort"),
        )
        return _Draw(cohort, source.derive(f"round/{round_number}/noise"))

    def _draw_from_tree(self, state: ServerState, round_number: int, source: NoiseSource) -> _Draw:
        """A leaf of the tree under way; a new tree has a key of its own."""
        number, leaf = divmod(round_number - 1, self._tree_rounds)
        key = source.derive_key(f"tree/{number}") if leaf == 0 else state.noise_key
        if key is None:
            raise ValueError("Expected the key of the tree that this round goes on with")
        if self._tree is None or self._tree[0] != key:
            tree = Tree(key, self._plan.population_clients, self._plan.clients_per_round)
            self._tree = (key, tree)
        tree, step = self._tree[1], leaf + 1
        over = step == self._tree_rounds or round_number == self._plan.rounds
        return _Draw(tree.cohort(step), tree.noise(step), None if over else key)


def _number(value: float | int | str | None) -> float:
    if isinstance(value, str) or value is None:
        raise TypeError(f"expected a number of the plan, not {value!r}")
    return float(value)
