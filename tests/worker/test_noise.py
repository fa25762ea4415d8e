"""The noise is the cipher's, has the right distribution, and never repeats by itself."""

import math

import numpy as np
import pytest

from worker.noise import BLOCK, NoiseSource

KEY = bytes(range(32))


def test_the_stream_is_aes_256_counter_mode() -> None:
    # NIST SP 800-38A, F.5.5 uses another counter; block 0 of key 0 is AES-256(0, 0) = dc95c078….
    expected = bytes.fromhex("dc95c078a2408989ad48a21492842087")
    assert NoiseSource(bytes(32)).uniform64(2).tobytes() == expected


def test_known_answers() -> None:
    assert NoiseSource(bytes(32)).gaussian(4, 2.0**20).tolist() == [
        -193835,
        -1138847,
        1152675,
        328816,
    ]


def test_a_key_fixes_every_bit_and_labels_are_independent() -> None:
    first, second = NoiseSource(KEY), NoiseSource(KEY)
    first.gaussian(17, 5.0)
    again = [source.derive("round/3/noise").gaussian(1000, 1e6) for source in (first, second)]
    np.testing.assert_array_equal(*again)
    other = second.derive("round/4/noise").gaussian(1000, 1e6)
    assert abs(np.corrcoef(again[0], other)[0, 1]) < 5 / math.sqrt(1000)


def test_without_a_key_no_two_sources_agree() -> None:
    assert NoiseSource().uniform64(4).tolist() != NoiseSource().uniform64(4).tolist()


@pytest.mark.parametrize("count", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7])
def test_blocks_one_after_the_other_are_the_same_numbers_as_all_at_once(count: int) -> None:
    whole, cut = NoiseSource(KEY), NoiseSource(KEY)
    parts = [cut.gaussian(min(BLOCK, count - start), 2.0**20) for start in range(0, count, BLOCK)]
    np.testing.assert_array_equal(np.concatenate(parts), whole.gaussian(count, 2.0**20))
    # What is drawn next is the same too: the next array of a model, or a tree's next node.
    np.testing.assert_array_equal(cut.uniform64(4), whole.uniform64(4))


@pytest.mark.parametrize("count", [0, 1, 2, 65535, 65537, 200_001])
def test_any_count_is_given(count: int) -> None:
    samples = NoiseSource(KEY).gaussian(count, 100.0)
    assert samples.shape == (count,)
    assert samples.dtype == np.int64


@pytest.mark.parametrize("sigma", [0.7, 2.0**20, 3.5 * 2**20, 1e4 * 2**20])
def test_moments_lie_within_their_bounds(sigma: float) -> None:
    count = 400_000
    samples = NoiseSource(KEY).gaussian(count, sigma).astype(np.float64)
    variance = sigma**2 + 1 / 12
    # χ² and central-limit bounds at 5 standard errors.
    assert abs(samples.mean()) < 5 * math.sqrt(variance / count)
    assert abs(samples.var() / variance - 1) < 5 * math.sqrt(2 / count)
    assert abs((samples**4).mean() / (3 * variance**2) - 1) < 0.05
    assert abs((samples**3).mean()) / variance**1.5 < 5 * math.sqrt(15 / count)


def test_the_distribution_is_normal_in_body_and_tail() -> None:
    count = 1_000_000
    samples = np.sort(NoiseSource(KEY).gaussian(count, 2.0**20)) / 2.0**20
    normal = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in samples[::1000]])
    distance = np.abs(normal - np.arange(0, count, 1000) / count).max()
    assert distance < 1.95 / math.sqrt(count)  # Kolmogorov, 0.1 %
    expected = count * math.erfc(4 / math.sqrt(2))
    assert abs((np.abs(samples) > 4).sum() - expected) < 5 * math.sqrt(expected)


def test_neighbours_are_uncorrelated() -> None:
    samples = NoiseSource(KEY).gaussian(1 << 17, 2.0**20).astype(np.float64)
    for lag in (1, 1 << 15, 1 << 16):
        correlation = np.corrcoef(samples[:-lag], samples[lag:])[0, 1]
        assert abs(correlation) < 5 / math.sqrt(len(samples) - lag)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf"), 2.0**49])
def test_a_scale_without_meaning_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma"):
        NoiseSource(KEY).gaussian(1, sigma)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        NoiseSource(b"short")
