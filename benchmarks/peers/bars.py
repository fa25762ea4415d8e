"""Bars on a logarithmic axis as an SVG file, in groups of one model each.

Plain text that a reviewer can read; no script, no font, no colour that vanishes on a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from benchmarks.report import Table, shown

GREY = "#888"
COLOURS = ("#5c7080", "#d1602b", "#b5482b", "#b58a1d", "#8f6d17", "#2a78c2", "#1d5690")
WIDTH, LEFT, RIGHT, TOP = 760, 210, 70, 44
BAR, GAP, FOOT = 16, 26, 30


@dataclass(frozen=True, slots=True)
class Group:
    """Bars of one model: name and positive value of each, from top to bottom."""

    name: str
    bars: tuple[tuple[str, float], ...]


def groups_of(table: Table, column: str) -> list[Group]:
    """Values of one column by model, in the order of the table; the first two cells are names."""
    at = table.columns.index(column)
    found: dict[str, list[tuple[str, float]]] = {}
    for row in table.rows:
        if row[at] is not None:
            found.setdefault(str(row[0]), []).append((str(row[1]), float(row[at] or 0)))
    return [Group(name, tuple(bars)) for name, bars in found.items()]


def draw(path: Path, groups: Sequence[Group], *, title: str) -> Path:
    """Write the plot; ValueError where a value is not positive."""
    values = [value for group in groups for _, value in group.bars]
    if not values or min(values) <= 0:
        raise ValueError("Expected positive values for a logarithmic axis")
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    span = (low, max(high, low + 1))
    names = list(dict.fromkeys(name for group in groups for name, _ in group.bars))
    height = TOP + sum(GAP + BAR * len(group.bars) for group in groups) + FOOT
    size = f'viewBox="0 0 {WIDTH} {height}" role="img" font-family="sans-serif" font-size="13"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        f"<title>{escape(title)}</title>",
        _text(LEFT, 20, title, "start"),
        *_axis(span, height),
    ]
    y = TOP
    for group in groups:
        parts.append(_text(LEFT, y + 16, group.name, "start", weight="bold"))
        y += GAP
        for name, value in group.bars:
            parts += _bar(name, value, y, span, COLOURS[names.index(name) % len(COLOURS)])
            y += BAR
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")
    return path


def _bar(name: str, value: float, y: float, span: tuple[int, int], colour: str) -> list[str]:
    end = place(value, span)
    size = f'width="{end - LEFT:.1f}" height="{BAR - 4}"'
    return [
        _text(LEFT - 8, y + 12, name, "end"),
        f'<rect x="{LEFT}" y="{y + 2}" {size} fill="{colour}"/>',
        _text(end + 6, y + 12, shown(float(value)), "start"),
    ]


def _axis(span: tuple[int, int], height: float) -> list[str]:
    """A line for every power of ten."""
    parts = []
    for power in range(span[0], span[1] + 1):
        x = place(10.0**power, span)
        parts.append(f'<path d="M{x:.1f} {TOP}V{height - FOOT}" stroke="{GREY}" opacity="0.3"/>')
        parts.append(_text(x, height - 10, f"{10.0**power:g}", "middle"))
    return parts


def place(value: float, span: tuple[int, int]) -> float:
    """Where a value lies across; the axis goes from 10 to the one power to the other."""
    share = (math.log10(value) - span[0]) / (span[1] - span[0])
    return LEFT + share * (WIDTH - RIGHT - LEFT)


def _text(x: float, y: float, text: str, anchor: str, *, weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{GREY}">{escape(text)}</text>'
    )
