"""Adaptive clipping: a clip norm that follows a quantile of the clients' norms, privately.

Andrew et al. 2021 (arXiv 1905.03871). Each client adds +½ (within C) or −½ (beyond) to a count, so
one client's whole contribution to it is at most ½; Gaussian noise of standard deviation σ_b is
added on the grid of the updates, and C moves geometrically. The count and the update share the
round's priced noise multiplier (`accounting.mechanism.update_noise`). An un-noised count must
never leave this module, and what depends on it is C alone. The cohort's size enters nowhere: the
denominator is the public q·N.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accounting.plan import MAX_CLIP_NORM, MIN_CLIP_NORM
from worker.aggregate import Gaussian
from worker.task import GRID


@dataclass(frozen=True, slots=True)
class AdaptiveClipping:
    """Public constants of a plan.

    Attributes:
        quantile: γ, the share of clients that C shall not clip.
        learning_rate: η_C of the geometric update.
        count_noise: σ_b, in clients.
        denominator: q·N.
    """

    quantile: float
    learning_rate: float
    count_noise: float
    denominator: float

    def next_norm(self, norm: float, count: npt.NDArray[np.int64], source: Gaussian) -> float:
        """C of the next round: C·exp(−η_C·(b̃ − γ)), b̃ the noised share of clients within C.

        Args:
            norm: C of this round.
            count: sum of ±½ on the grid, int64 (1,), from `aggregate.check_count`.
            source: the noise of this count alone.

        Returns:
            A norm within the limits of a plan, whatever the noise was.
        """
        noised = int(count[0]) + int(source.gaussian(1, self.count_noise * GRID)[0])
        share = noised / (GRID * self.denominator) + 0.5
        step = max(-10.0, min(10.0, self.learning_rate * (share - self.quantile)))
        return min(max(norm * math.exp(-step), MIN_CLIP_NORM), MAX_CLIP_NORM)
