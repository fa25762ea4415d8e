"""What a policy and a budget leave open: a grid of rounds × noise × cohort, as table and as plot.

Numbers in, text out: points are judged elsewhere, by the very judgement of an admission. The plot
is one SVG of small squares, a panel for each cohort; it tells by shape and by text what it tells by
colour, names its axes, and holds no script, style sheet or reference to anything outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Literal

Standing = Literal["allowed", "needs_approval", "denied", "over_budget", "impossible"]
STANDINGS: Final[tuple[Standing, ...]] = (
    "allowed",
    "needs_approval",
    "denied",
    "over_budget",
    "impossible",
)
_COLOURS: Final = {
    "allowed": "#1b7837",
    "needs_approval": "#e6a700",
    "denied": "#b2182b",
    "over_budget": "#5e3c99",
    "impossible": "#9e9e9e",
}
_MARKS: Final = {
    "allowed": "●", "needs_approval": "◐", "denied": "✕", "over_budget": "▲", "impossible": "–",
}  # fmt: skip
_CELL, _LEFT, _TOP, _GAP = 26, 64, 46, 30


@dataclass(frozen=True, slots=True)
class Point:
    """One request of the grid: what it would cost, how it would stand, and which rules fired."""

    rounds: int
    noise_multiplier: float
    clients_per_round: int
    epsilon: float | None
    standing: Standing
    codes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Region:
    """All points, and the axes they lie on."""

    rounds: tuple[int, ...]
    noise_multipliers: tuple[float, ...]
    clients_per_round: tuple[int, ...]
    points: tuple[Point, ...]

    def counts(self) -> dict[str, int]:
        """How many points stand how."""
        return {
            standing: sum(point.standing == standing for point in self.points)
            for standing in STANDINGS
        }

    def at(self, rounds: int, noise: float, cohort: int) -> Point:
        """The point at three coordinates of the axes."""
        wide = len(self.noise_multipliers)
        place = self.clients_per_round.index(cohort) * len(self.rounds)
        place = (place + self.rounds.index(rounds)) * wide + self.noise_multipliers.index(noise)
        return self.points[place]


def table(region: Region) -> str:
    """One block a cohort: rounds down, noise across, a mark for each standing, and a legend."""
    lines = []
    for cohort in region.clients_per_round:
        lines.append(f"clients_per_round {cohort}")
        heads = [f"{noise:g}" for noise in region.noise_multipliers]
        width = max(6, *(len(head) + 1 for head in heads))
        lines.append("rounds \\ noise".ljust(15) + "".join(head.rjust(width) for head in heads))
        for rounds in region.rounds:
            marks = (
                _MARKS[region.at(rounds, noise, cohort).standing].rjust(width)
                for noise in region.noise_multipliers
            )
            lines.append(str(rounds).ljust(15) + "".join(marks))
        lines.append("")
    legend = "  ".join(f"{_MARKS[name]} {_named(name)}" for name in STANDINGS)
    return "\n".join([*lines, legend, ""])


def svg(region: Region, title: str) -> str:
    """The same as a plot; `title` is told to people and to screen readers."""
    across = len(region.noise_multipliers) * _CELL + _LEFT
    high = len(region.rounds) * _CELL + _TOP + _GAP
    panels = [
        _panel(region, cohort, place % 2 * (across + _GAP), _TOP + place // 2 * high)
        for place, cohort in enumerate(region.clients_per_round)
    ]
    width = 2 * across + 2 * _GAP
    height = _TOP + -(-len(panels) // 2) * high + _GAP
    said = ", ".join(f"{count} {_named(name)}" for name, count in region.counts().items())
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    font = 'font-family="sans-serif" font-size="11"'
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" {font}>',
            f"<title>{escape(title)}</title><desc>{escape(said)}</desc>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            f'<text x="8" y="18" font-size="14">{escape(title)}</text>',
            *panels,
            _legend(height - 12),
            "</svg>",
        ]
    )


def _panel(region: Region, cohort: int, left: int, top: int) -> str:
    """Rounds down, noise across, for one cohort."""
    parts = [f'<g transform="translate({left + _LEFT},{top})">']
    said = f"{cohort} clients per round; noise across, rounds down"
    parts.append(_text(0, -18, said, "start", 11))
    for column, noise in enumerate(region.noise_multipliers):
        parts.append(_text(column * _CELL + _CELL // 2, -4, f"{noise:g}", "middle", 9))
    for row, rounds in enumerate(region.rounds):
        parts.append(_text(-6, row * _CELL + 17, str(rounds), "end", 10))
        for column, noise in enumerate(region.noise_multipliers):
            point = region.at(rounds, noise, cohort)
            parts.append(_cell(column * _CELL, row * _CELL, point))
    return "".join([*parts, "</g>"])


def _cell(left: int, top: int, point: Point) -> str:
    """One square, its mark, and what a pointer that rests on it is told."""
    size = _CELL - 2
    price = "no price" if point.epsilon is None else f"ε {point.epsilon:.4g}"
    codes = f" ({', '.join(point.codes)})" if point.codes else ""
    said = f"{point.rounds} rounds, noise {point.noise_multiplier:g}: {price}, "
    return (
        f"<g><title>{escape(said + _named(point.standing) + codes)}</title>"
        f'<rect x="{left}" y="{top}" width="{size}" height="{size}" '
        f'fill="{_COLOURS[point.standing]}"/>'
        f'<text x="{left + size // 2}" y="{top + 16}" text-anchor="middle" fill="#ffffff">'
        f"{_MARKS[point.standing]}</text></g>"
    )


def _legend(base: int) -> str:
    parts = []
    for place, name in enumerate(STANDINGS):
        left = 8 + place * 110
        parts.append(f'<rect x="{left}" y="{base - 10}" width="12" height="12" ')
        parts.append(f'fill="{_COLOURS[name]}"/>')
        parts.append(_text(left + 17, base, f"{_MARKS[name]} {_named(name)}", "start", 11))
    return "".join(parts)


def _text(left: int, base: int, text: str, anchor: str, size: int) -> str:
    return (
        f'<text x="{left}" y="{base}" text-anchor="{anchor}" font-size="{size}">'
        f"{escape(text)}</text>"
    )


def _named(standing: str) -> str:
    return standing.replace("_", " ")


def axis(low: float, high: float, count: int) -> Sequence[float]:
    """`count` values from low to high, each the same factor above the one before."""
    if count < 2 or high <= low:
        return (low,)
    factor = (high / low) ** (1 / (count - 1))
    return tuple(low * factor**step for step in range(count))
