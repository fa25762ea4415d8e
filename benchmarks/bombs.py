"""How long does the door take to refuse a model that would cost a framework minutes?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.report import Table
from benchmarks.timing import Sizes, alternate
from privacy_gateway import modelspec, schemas
from privacy_gateway.errors import Refused
from privacy_gateway.schemas import JobRequest
from tests.support import bombs, market


def ask(sizes: Sizes) -> Iterator[Table]:
    """Parsing and measuring a whole request, ordinary and hostile, in turns."""
    requests = {"an ordinary model": [{"type": "Dense", "units": 3}], **bombs.BOMBS}
    acts = {name: partial(_door, _body(layers)) for name, layers in requests.items()}
    refused = {name: act() for name, act in acts.items()}
    taken = alternate(acts, runs=20 if sizes.quick else 100)
    table = Table(
        "bombs",
        "a request through the door: parsed, measured, refused",
        ("model", "refused", "p50 ms", "p99 ms", "to ordinary"),
    )
    ordinary = taken["an ordinary model"].median
    for name, found in taken.items():
        p50, p99 = found.median * 1e3, found.percentile(99) * 1e3
        table.add(name, "yes" if refused[name] else "no", p50, p99, found.median / ordinary)
    frameworks = sorted({"tensorflow", "keras"} & sys.modules.keys())
    table.notes.append(f"frameworks imported: {', '.join(frameworks) or 'none'}; promised: 50 ms")
    yield table


def _body(layers: list[dict[str, Any]]) -> dict[str, Any]:
    return market.body("ds_1", model={"architecture": bombs.architecture(layers)})


def _door(body: dict[str, Any]) -> bool:
    """Whether it is refused."""
    try:
        modelspec.measure(schemas.parse(JobRequest, body).model.architecture)
    except Refused:
        return True
    return False
