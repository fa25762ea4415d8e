"""What a question answers with: one table to read, the same numbers as JSON to compare.

Numbers of different machines or different moments must never be put side by side: a table holds
what was measured in one run, and says on what and under which load.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Drawing

RESULTS = Path(__file__).parent / "results"
REPOSITORY = Path(__file__).resolve().parent.parent

Cell = str | int | float | None


@dataclass(slots=True)
class Table:
    """One question with its measured rows.

    Attributes:
        name: of the question and its JSON file.
        question: what a reader wants to know.
        columns: headings; a row has one cell for each.
        rows: cells, numbers as measured.
        notes: what has to be known to read the numbers.
    """

    name: str
    question: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        """Append a row."""
        if len(cells) != len(self.columns):
            raise ValueError(f"Expected {len(self.columns)} cells, not {len(cells)}")
        self.rows.append(cells)

    def draw(self, console: Console) -> None:
        """Print it."""
        drawing = Drawing(title=f"{self.name}: {self.question}", title_justify="left")
        for number, column in enumerate(self.columns):
            drawing.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            drawing.add_row(*(shown(cell) for cell in row))
        console.print(drawing)
        for note in self.notes:
            console.print(f"  {note}", style="dim", highlight=False)
        console.print()

    def save(self, facts: dict[str, Any]) -> Path:
        """Write the JSON file and return its path."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        content = {
            "name": self.name,
            "question": self.question,
            "machine": facts,
            "rows": rows,
            "notes": self.notes,
        }
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def shown(cell: Cell) -> str:
    """A number with three or four digits that count, everything else as it is."""
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def machine(load_before: float) -> dict[str, Any]:
    """What the numbers were measured on; no names of hosts or folders."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": _processor(),
        "cores": cores(),
        "load_before": round(load_before, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("tensorflow-cpu", "keras", "sqlalchemy", "psycopg")},
    }


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0))


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
