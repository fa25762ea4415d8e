"""A signed statement as one printable page: tables, a burn-down plot, and the signed JSON itself.

No script, no style attribute, nothing from elsewhere; the only style sheet is allowed by its hash.
Each plot has its table beneath. The last thing on the page is a signature over everything above it,
so that a figure edited on the page is found (`privacy-gateway statement verify`). This module must
never compute a figure that decides anything: it prints what the statement says.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kit.clock import from_micros, rfc3339
from privacy_gateway import statement
from privacy_gateway.checkpoint import Signer

_FOLDER: Final = Path(__file__).parent / "templates"
STYLE: Final = (_FOLDER / "statement.css").read_text(encoding="utf-8")
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)

# The plot's area in its own units; labels stand left of and below it.
WIDTH: Final = 640
HEIGHT: Final = 220
_GROUPS: Final = (
    ("by_researcher", "Researcher"),
    ("by_project", "Project"),
    ("by_purpose", "Purpose"),
    ("by_dataset", "Data set"),
)


def signed_page(document: Mapping[str, Any], signers: Iterable[Signer]) -> str:
    """The page of a signed statement, itself signed."""
    told = document["statement"]
    body = _environment().get_template("statement.html").render(
        told=told,
        style=STYLE,
        groups=[(title, told[name]) for name, title in _GROUPS],
        order=told["orders"][told["binding_order"]],
        plot=plot(told),
        document=json.dumps(document, ensure_ascii=False, sort_keys=True),
    )  # fmt: skip
    return statement.sign_page(body, signers)


def plot(told: Mapping[str, Any]) -> dict[str, Any]:
    """Lines of the burn-down in the plot's units: spent, committed and ε, as steps over time."""
    points = told["burn_down"]["points"]
    start, end = _span(told, points)
    top = max([1, *(point["epsilon_nano"] for point in points)])

    def across(at: int) -> float:
        return round(float(min(max(at - start, 0), end - start) / (end - start) * WIDTH), 1)

    def down(nano: int) -> float:
        return round(float(HEIGHT - min(nano, top) / top * HEIGHT), 1)

    series = {
        "spent": [point["spent_nano"] for point in points],
        "committed": [point["spent_nano"] + point["reserved_nano"] for point in points],
        "budget": [point["epsilon_nano"] for point in points],
    }
    places = [across(point["at"]) for point in points]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "lines": {name: _steps(places, [*map(down, of)]) for name, of in series.items()},
        "ticks": [(down(top * part // 4), epsilon(top * part // 4)) for part in range(5)],
        "from": when(start),
        "to": when(end),
    }


def epsilon(nano: int) -> str:
    """ε from billionths, six decimals, rounded up: never less than was spent."""
    return f"{-(-nano // 1000) / 1_000_000:.6f}"


def left(nano: int) -> str:
    """What is left, rounded down."""
    return f"{nano // 1000 / 1_000_000:.6f}"


def when(at: int) -> str:
    """A time as people write it, UTC."""
    return rfc3339(from_micros(at)) if at else "the beginning"


def percent(ppm: int) -> str:
    """A share, two decimals."""
    return f"{ppm / 10_000:.2f} %"


def _span(told: Mapping[str, Any], points: Sequence[Mapping[str, int]]) -> tuple[int, int]:
    """The period, or from the first change where the period has no beginning."""
    start, end = told["period"]["from"], told["period"]["to"]
    if not start and points:
        start = min(point["at"] for point in points)
    return start, max(end, start + 1)


def _steps(across: Sequence[float], down: Sequence[float]) -> str:
    """A staircase through the points, on to the right edge."""
    if not across:
        return ""
    parts = [f"M{across[0]} {down[0]}"]
    for x, y in zip(across[1:], down[1:], strict=True):
        parts.append(f"H{x}V{y}")
    return "".join(parts) + f"H{WIDTH}"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"epsilon": epsilon, "left": left, "when": when, "percent": percent}
    return environment
