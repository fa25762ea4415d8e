"""Who takes part in a round. The cohort is secret: it never leaves the trusted side as a list.

Amplification by sampling is only true if each client is in with exactly the priced probability,
so the coin is an integer comparison on words of the keyed stream, exact for m/N, and never a
comparison of floats. What was priced as Poisson must never be drawn as a fixed size.
"""

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from worker.noise import NoiseSource

Clients: TypeAlias = npt.NDArray[np.int64]
Sampling = Literal["poisson", "fixed_size", "none"]

_WORDS = 1 << 64
_CHUNK = 1 << 18


def draw_cohort(
    sampling: Sampling, clients: int, clients_per_round: int, source: NoiseSource
) -> Clients:
    """Positions of the clients of one round, ascending, int64.

    Args:
        sampling: how the round was priced.
        clients: N, the public size of the population.
        clients_per_round: m; the sampling rate is m/N.
        source: the round's own stream.

    Raises:
        ValueError: not 1 ≤ m ≤ N, or an unknown kind of sampling.
    """
    if not 1 <= clients_per_round <= clients:
        raise ValueError(f"Expected 1 ≤ clients_per_round={clients_per_round} ≤ {clients}")
    if sampling == "poisson":
        return poisson_cohort(clients, clients_per_round, source)
    if sampling == "fixed_size":
        return fixed_size_cohort(clients, clients_per_round, source)
    if sampling == "none":
        return np.arange(clients, dtype=np.int64)
    raise ValueError(f"Expected sampling poisson, fixed_size or none, not {sampling!r}")


def poisson_cohort(clients: int, clients_per_round: int, source: NoiseSource) -> Clients:
    """Each client by itself with probability exactly clients_per_round / clients."""
    # u < m·k of u uniform below N·k; words beyond N·k (fewer than N of 2⁶⁴) are drawn again.
    share = _WORDS // clients
    threshold, bound = clients_per_round * share, clients * share
    if threshold >= _WORDS:
        return np.arange(clients, dtype=np.int64)
    chosen = []
    for start in range(0, clients, _CHUNK):
        words = source.uniform64(min(_CHUNK, clients - start))
        if bound < _WORDS and bool((words >= np.uint64(bound)).any()):
            words = _redraw(words, bound, source)
        chosen.append(np.flatnonzero(words < np.uint64(threshold)) + start)
    return np.concatenate(chosen).astype(np.int64, copy=False)


def fixed_size_cohort(clients: int, clients_per_round: int, source: NoiseSource) -> Clients:
    """A uniformly random set of exactly clients_per_round clients."""
    if clients_per_round == clients:
        return np.arange(clients, dtype=np.int64)
    while True:
        keys = source.uniform64(clients)
        order = np.argpartition(keys, (clients_per_round - 1, clients_per_round))
        last, next_one = keys[order[clients_per_round - 1]], keys[order[clients_per_round]]
        # Equal keys at the border would make the choice depend on positions.
        if last != next_one:
            return np.sort(order[:clients_per_round]).astype(np.int64, copy=False)


def _redraw(
    words: npt.NDArray[np.uint64], bound: int, source: NoiseSource
) -> npt.NDArray[np.uint64]:
    """Replace words that lie beyond the largest multiple of N."""
    words = words.copy()
    while True:
        beyond = np.flatnonzero(words >= np.uint64(bound))
        if not len(beyond):
            return words
        words[beyond] = source.uniform64(len(beyond))
