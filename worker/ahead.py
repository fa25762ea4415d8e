"""A round's noise, drawn while the round is computed.

Noise depends on nobody's data, and who waits for a sandbox has the time. The numbers are those that
would be drawn afterwards, bit for bit. So that a large model's noise does not stay in memory for a
whole round, only the first part of it is drawn ahead.
"""

from collections import deque
from collections.abc import Sequence
from math import prod

from worker.aggregate import Gaussian
from worker.noise import Integers, blocks

# Numbers, 8 bytes each.
MOST = 1 << 20


class NoiseAhead:
    """The Gaussian of one round, see `worker.aggregate.noised_mean`; not thread-safe.

    Attributes:
        source: where the noise comes from; nobody else may draw from it.
    """

    def __init__(self, source: Gaussian, sigma: float, shapes: Sequence[tuple[int, ...]]) -> None:
        """Draw nothing yet.

        Args:
            source: the round's own noise.
            sigma: standard deviation that will be asked for.
            shapes: of the arrays that noise will be added to, in their order.
        """
        self.source = source
        self._sigma = sigma
        self._shapes = shapes
        self._drawn: deque[Integers] = deque()

    def draw(self) -> None:
        """Draw what will be asked for first, up to `MOST` numbers; once, before it is asked for."""
        room = MOST
        for shape in self._shapes:
            for piece in blocks(prod(shape)):
                size = piece.stop - piece.start
                room -= size
                if room < 0:
                    return
                self._drawn.append(self.source.gaussian(size, self._sigma))

    def gaussian(self, count: int, sigma: float) -> Integers:
        """The next `count` integers of standard deviation `sigma`.

        Raises:
            ValueError: they were drawn ahead for another sum than this one.
        """
        if not self._drawn:
            return self.source.gaussian(count, sigma)
        noise = self._drawn.popleft()
        if noise.size != count or sigma != self._sigma:
            raise ValueError("Expected the sum that the noise was drawn for")
        return noise
