"""`python -m docs.generate`: write every generated page; with `--check`, only compare.

The test suite runs the same comparison, so a page that tells something else than the code cannot
be committed unnoticed. Nothing here may be written by hand that the code already says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from docs.generate import api, cli, errors, export, metrics, policy, settings

DIRECTORY = Path(__file__).resolve().parents[1] / "reference"
MARK = "<!-- Made from the code by `make docs`; do not edit. -->\n\n"

PAGES: dict[str, Callable[[], str]] = {
    "api.md": api.page,
    "cli.md": cli.page,
    "errors.md": errors.page,
    "export.md": export.page,
    "metrics.md": metrics.page,
    "policy-input.md": policy.page,
    "settings.md": settings.page,
}


def render(name: str) -> str:
    """The whole text of one page."""
    return MARK + PAGES[name]().rstrip() + "\n"


def main() -> int:
    """Write the pages that changed, or name the ones that are stale."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 when stale")
    only_check = parser.parse_args().check
    stale = [name for name in PAGES if _stored(name) != render(name)]
    for name in stale:
        print(f"{'stale' if only_check else 'written'}: docs/reference/{name}")
        if not only_check:
            (DIRECTORY / name).write_text(render(name), encoding="utf-8")
    return 1 if stale and only_check else 0


def _stored(name: str) -> str:
    path = DIRECTORY / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
