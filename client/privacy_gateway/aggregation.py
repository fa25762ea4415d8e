"""How the updates of a round become one, and why there is one way only.

The price of a round rests on its sensitivity: one person changes a sum of clipped updates by C at
most. A robust rule has no such bound (a median jumps, Krum picks another person's update), so no
noise of known size hides anybody behind it, and it would have to read updates one by one. Asking
for one is refused by name, never ignored: who asks believes that it would be done.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import PydanticCustomError

SUM = "sum"
# Of the robust aggregation literature; benchmarks/attacks.py runs the first three outside of jobs.
WITHOUT_SENSITIVITY = (
    "coordinate_median",
    "trimmed_mean",
    "krum",
    "median",
    "multi_krum",
    "bulyan",
    "geometric_median",
)


def only_sums(value: Any) -> Any:
    """Name what is wrong with an aggregator that has no sensitivity; let the rest be judged."""
    if isinstance(value, str) and value.lower().replace("-", "_") in WITHOUT_SENSITIVITY:
        raise PydanticCustomError(
            "aggregator_without_sensitivity",
            "{name} has no bound on what one person changes, so no noise can be priced for it; "
            "use sum, of updates clipped to clip_norm",
            {"name": value[:80]},
        )
    return value


def is_sum(value: object) -> bool:
    """Whether it is the default, which a request leaves out."""
    return value == SUM
