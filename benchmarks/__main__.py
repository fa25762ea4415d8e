"""`python -m benchmarks [name …]`: one table a question on the screen, JSON in `results/`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from benchmarks.report import machine
from benchmarks.timing import Sizes

QUESTIONS = (
    "decision",
    "policy",
    "admission",
    "processor",
    "noise",
    "people",
    "bombs",
    "training",
    "job",
    "scale",
    "verify",
    "proofs",
    "memory",
)
# Not about speed, and longer than a coffee: asked by name.
BY_NAME = ("utility", "attacks", "peers")


_NAMES = f"of {', '.join(QUESTIONS)}; by name alone: {', '.join(BY_NAME)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask the named questions, or all of them, one after the other."""
    options = _parser().parse_args(arguments)
    sizes = Sizes(
        runs=max(3, options.runs or (3 if options.quick else 5)),
        window_seconds=1.0 if options.quick else 3.0,
        quick=options.quick,
        full=options.full,
    )
    console = Console(width=None if sys.stdout.isatty() else 140)
    for name in options.names or QUESTIONS:
        load = os.getloadavg()[0]
        for table in importlib.import_module(f"benchmarks.{name}").ask(sizes):
            table.draw(console)
            path = table.save(machine(load))
            console.print(f"  results/{path.name}, load {load:.1f}", style="dim")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=_NAMES)
    parser.add_argument("--quick", action="store_true", help="a look in a minute or two")
    parser.add_argument("--full", action="store_true", help="with the CNN and 1e5 entries")
    parser.add_argument("--runs", type=int, help="repetitions a median is taken of")
    return parser


if __name__ == "__main__":
    sys.exit(main())
