"""Noise on the nodes of a tree: right sums, right scale, the same after an interruption."""

from __future__ import annotations

import math

import numpy as np
import pytest

from worker.noise import NoiseSource
from worker.tree import Tree

KEY = bytes(range(32))
SIGMA = 50.0


def node(level: int, number: int, count: int) -> np.ndarray:
    return NoiseSource(KEY).derive(f"node/{level}/{number}").gaussian(count, SIGMA)


def prefix(step: int, count: int) -> np.ndarray:
    """Noise of the nodes that make up rounds 1 … step, by the binary digits of `step`."""
    total = np.zeros(count, np.int64)
    for level in range(step.bit_length()):
        if step >> level & 1:
            total += node(level, step >> level, count)
    return total


@pytest.mark.parametrize("rounds", [1, 2, 7, 13, 16])
def test_rounds_add_up_to_the_noise_of_the_nodes_of_a_prefix(rounds: int) -> None:
    tree = Tree(KEY, clients=rounds, clients_per_round=1)
    total = np.zeros(5, np.int64)
    for step in range(1, rounds + 1):
        total += tree.noise(step).gaussian(5, SIGMA)
        np.testing.assert_array_equal(total, prefix(step, 5))


def test_arrays_of_a_model_are_parts_of_one_stream() -> None:
    tree = Tree(KEY, clients=8, clients_per_round=1)
    noise = tree.noise(4)
    first, second = noise.gaussian(6, SIGMA), noise.gaussian(6, SIGMA)
    assert not np.array_equal(first, second)
    again = tree.noise(4)
    np.testing.assert_array_equal(first, again.gaussian(6, SIGMA))
    np.testing.assert_array_equal(second, again.gaussian(6, SIGMA))


@pytest.mark.parametrize(("step", "nodes"), [(1, 1), (7, 3), (8, 1), (12, 2)])
def test_a_prefix_has_the_variance_of_its_nodes_and_no_node_repeats(step: int, nodes: int) -> None:
    count = 40_000
    tree = Tree(KEY, clients=16, clients_per_round=1)
    noise = sum(tree.noise(each).gaussian(count, SIGMA) for each in range(1, step + 1))
    variance = nodes * SIGMA**2
    assert abs(float(np.var(noise)) / variance - 1) < 5 * math.sqrt(2 / count)


def test_a_client_is_in_one_leaf_at_most_and_leaves_are_of_one_size() -> None:
    tree = Tree(KEY, clients=103, clients_per_round=10)
    assert tree.rounds == 10
    cohorts = [tree.cohort(step) for step in range(1, 11)]
    assert {len(cohort) for cohort in cohorts} == {10}
    everybody = np.concatenate(cohorts)
    assert len(set(everybody.tolist())) == 100
    assert everybody.min() >= 0
    assert everybody.max() < 103
    assert all(np.all(np.diff(cohort) > 0) for cohort in cohorts)


def test_another_key_deals_and_noises_anew() -> None:
    one, other = (Tree(key, 100, 10) for key in (KEY, bytes(32)))
    assert not np.array_equal(one.cohort(1), other.cohort(1))
    assert not np.array_equal(one.noise(1).gaussian(9, SIGMA), other.noise(1).gaussian(9, SIGMA))


@pytest.mark.parametrize("step", [0, 11])
def test_a_round_outside_the_pass_is_refused(step: int) -> None:
    tree = Tree(KEY, 100, 10)
    with pytest.raises(ValueError, match="step"):
        tree.noise(step)
    with pytest.raises(ValueError, match="step"):
        tree.cohort(step)


@pytest.mark.parametrize("size", [0, 11])
def test_impossible_leaves_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="clients_per_round"):
        Tree(KEY, 10, size)
