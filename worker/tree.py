"""Tree aggregation: noise that is added once to every node instead of once to every round.

DP-FTRL (Kairouz et al. 2021, arXiv 2103.00039) releases prefix sums of the rounds. The leaves of a
binary tree are the rounds of one pass, in which each client takes part once at most; the sum of
every node gets one Gaussian, and a prefix is the sum of the few nodes that make it up. What this
module gives for a round is the difference of the noise of two prefixes, so that the round's noised
sum is the difference of two released prefixes: any server optimizer behind it is post-processing,
and plain steps are DP-FTRL itself, momentum its momentum variant. Price: one client meets at most
floor(log₂ n) + 1 nodes (`SingleEpochTreeAggregationDpEvent`).

Nodes are drawn from a key by their place in the tree, so a job that was interrupted goes on with
the same noise. Whoever has the key can take the noise off: it must never be logged or shown, never
serve two trees, and is forgotten when the tree is finished.
"""

import numpy as np
import numpy.typing as npt

from worker.noise import Integers, NoiseSource
from worker.sampling import Clients


class NodeNoise:
    """The noise of one round: its new node, minus the nodes that this one takes the place of."""

    def __init__(self, new: NoiseSource, replaced: list[NoiseSource]) -> None:
        self._new = new
        self._replaced = replaced

    def gaussian(self, count: int, sigma: float) -> Integers:
        """The next `count` coordinates; `sigma` is the standard deviation of each node."""
        total = self._new.gaussian(count, sigma)
        for source in self._replaced:
            total -= source.gaussian(count, sigma)
        return total


class Tree:
    """One pass over the population: who is in which round, and each round's noise."""

    def __init__(self, key: bytes, clients: int, clients_per_round: int) -> None:
        """Deal the clients.

        Args:
            key: 32 bytes, of this tree alone.
            clients: N, the public size of the population.
            clients_per_round: m, clients in each leaf; N mod m of them sit this pass out.

        Raises:
            ValueError: not 1 ≤ m ≤ N.
        """
        if not 1 <= clients_per_round <= clients:
            raise ValueError(f"Expected 1 ≤ clients_per_round={clients_per_round} ≤ {clients}")
        self._source = NoiseSource(key)
        self._size = clients_per_round
        self.rounds = clients // clients_per_round
        words = self._source.derive("order").uniform64(clients)
        self._order: npt.NDArray[np.int64] = np.argsort(words, kind="stable")

    def cohort(self, step: int) -> Clients:
        """The clients of a round, ascending; `step` counts from 1 and no client is in two."""
        self._check(step)
        return np.sort(self._order[(step - 1) * self._size : step * self._size])

    def noise(self, step: int) -> NodeNoise:
        """The noise that a round adds to the prefix before it."""
        self._check(step)
        level = (step & -step).bit_length() - 1
        replaced = [self._node(below, (step - 1) >> below) for below in range(level)]
        return NodeNoise(self._node(level, step >> level), replaced)

    def _node(self, level: int, number: int) -> NoiseSource:
        """The stream of the node over rounds (number − 1)·2^level + 1 … number·2^level."""
        return self._source.derive(f"node/{level}/{number}")

    def _check(self, step: int) -> None:
        if not 1 <= step <= self.rounds:
            raise ValueError(f"Expected 1 ≤ step={step} ≤ {self.rounds}")
