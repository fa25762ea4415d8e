"""Lines with error bars as an SVG file: what a page about measured figures needs, and no more.

Plain text that a reviewer can read; no script, no font, no colour that vanishes on a dark page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

COLOURS = ("#2a78c2", "#d1602b", "#3c9a5f", "#9457b5", "#b58a1d", "#5c7080")
WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 200, 24, 52
_OPEN = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
    'font-family="sans-serif" font-size="13">'
)


@dataclass(frozen=True, slots=True)
class Point:
    """A mean with the lowest and highest it was made of; `place` counts along the axis from 0."""

    place: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    """Points of one name, from left to right."""

    name: str
    points: tuple[Point, ...]


def draw(
    path: Path, lines: Sequence[Line], *, places: Sequence[str], title: str, across: str, up: str
) -> Path:
    """Write the plot.

    Args:
        path: file to write.
        lines: what is drawn.
        places: labels of the horizontal axis, evenly spaced.
        title: for who cannot see it.
        across, up: names of the axes.
    """
    shown = [edge for line in lines for point in line.points for edge in (point.low, point.high)]
    low, high = _rounded(min(shown), max(shown))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts = [
        _OPEN,
        f"<title>{escape(title)}</title>",
        *_grid(places, low, high),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, across, "middle"),
        f'<g transform="rotate(-90 16 {middle:.0f})">{_text(16, middle, up, "middle")}</g>',
    ]
    labels = _apart([_height(line.points[-1].mean, low, high) for line in lines])
    for number, (line, label) in enumerate(zip(lines, labels, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        parts += _line(line, len(places), (low, high), colour)
        parts.append(_text(WIDTH - RIGHT + 12, label + 4, line.name, "start", colour))
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")
    return path


def _line(line: Line, places: int, span: tuple[float, float], colour: str) -> list[str]:
    """A polyline, a dot for each mean, a bar from the lowest to the highest."""
    spots = [(_across(p.place, places), _height(p.mean, *span)) for p in line.points]
    route = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    parts = [f'<polyline points="{route}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for (x, y), point in zip(spots, line.points, strict=True):
        top, bottom = _height(point.high, *span), _height(point.low, *span)
        parts.append(
            f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}M{x - 4:.1f} {top:.1f}h8'
            f'M{x - 4:.1f} {bottom:.1f}h8" stroke="{colour}"/>'
        )
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
    return parts


def _grid(places: Sequence[str], low: float, high: float) -> list[str]:
    """Tenths as lines, places as labels."""
    parts = []
    for tenth in range(round(low * 10), round(high * 10) + 1):
        y = _height(tenth / 10, low, high)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#888" opacity="0.3"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{tenth / 10:.1f}", "end"))
    for number, place in enumerate(places):
        parts.append(_text(_across(number, len(places)), HEIGHT - BOTTOM + 20, place, "middle"))
    return parts


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#888") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{escape(text)}</text>"
    )


def _apart(heights: Sequence[float], gap: float = 16) -> list[float]:
    """The same heights, moved down where two labels would lie on each other."""
    moved, last = list(heights), float("-inf")
    for place in sorted(range(len(heights)), key=lambda k: heights[k]):
        last = moved[place] = max(heights[place], last + gap)
    return moved


def _rounded(low: float, high: float) -> tuple[float, float]:
    """Whole tenths around what is shown."""
    return max(0, int(low * 10)) / 10, -int(-high * 10 // 1) / 10


def _across(place: int, places: int) -> float:
    return LEFT + 20 + place * (WIDTH - RIGHT - LEFT - 40) / max(1, places - 1)


def _height(value: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - TOP)
