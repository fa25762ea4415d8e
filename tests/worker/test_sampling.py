"""Cohorts have exactly the priced distribution."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.noise import NoiseSource
from worker.sampling import draw_cohort, fixed_size_cohort, poisson_cohort

KEY = bytes(range(32))


@given(clients=st.integers(1, 300), share=st.floats(0, 1), key=st.binary(min_size=32, max_size=32))
def test_a_cohort_is_an_ascending_set_of_clients(clients: int, share: float, key: bytes) -> None:
    wanted = max(1, round(share * clients))
    for sampling in ("poisson", "fixed_size", "none"):
        cohort = draw_cohort(sampling, clients, wanted, NoiseSource(key))
        assert cohort.dtype == np.int64
        assert sorted(set(cohort.tolist())) == cohort.tolist()
        assert all(0 <= client < clients for client in cohort)
        if sampling == "fixed_size":
            assert len(cohort) == wanted


def test_poisson_sizes_are_binomial() -> None:
    clients, wanted, rounds = 1000, 37, 2000
    source = NoiseSource(KEY)
    sizes = np.array([len(poisson_cohort(clients, wanted, source)) for _ in range(rounds)])
    q = wanted / clients
    variance = clients * q * (1 - q)
    assert abs(sizes.mean() - wanted) < 5 * math.sqrt(variance / rounds)
    assert abs(sizes.var() / variance - 1) < 5 * math.sqrt(2 / rounds)


@pytest.mark.parametrize("draw", [poisson_cohort, fixed_size_cohort])
def test_every_client_is_equally_likely_and_pairs_are_right(draw) -> None:  # type: ignore[no-untyped-def]
    clients, wanted, rounds = 20, 7, 20_000
    source = NoiseSource(KEY)
    member = np.zeros((rounds, clients))
    for row in member:
        row[draw(clients, wanted, source)] = 1
    q = wanted / clients
    error = math.sqrt(q * (1 - q) / rounds)
    assert np.abs(member.mean(0) - q).max() < 5 * error
    pair = (member[:, 0] * member[:, 1]).mean()
    both = q * q if draw is poisson_cohort else q * (wanted - 1) / (clients - 1)
    assert abs(pair - both) < 5 * math.sqrt(both / rounds)


def test_a_rate_of_one_takes_everybody() -> None:
    assert poisson_cohort(9, 9, NoiseSource(KEY)).tolist() == list(range(9))
    assert poisson_cohort(1, 1, NoiseSource(KEY)).tolist() == [0]
    assert poisson_cohort(1 << 18, 1 << 18, NoiseSource(KEY)).tolist() == list(range(1 << 18))


def test_a_million_clients_are_drawn_in_chunks() -> None:
    cohort = poisson_cohort(1_000_000, 1000, NoiseSource(KEY))
    assert abs(len(cohort) - 1000) < 5 * math.sqrt(1000)
    assert cohort.max() > 900_000


@pytest.mark.parametrize(("clients", "wanted"), [(10, 0), (10, 11), (0, 0), (10, -1)])
def test_an_impossible_cohort_is_refused(clients: int, wanted: int) -> None:
    with pytest.raises(ValueError, match="clients_per_round"):
        draw_cohort("poisson", clients, wanted, NoiseSource(KEY))
