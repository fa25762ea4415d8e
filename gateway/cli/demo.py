"""`demo`: the main job end to end on this machine, on real data, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gateway.cli.common import explained


def demo(
    state: Annotated[
        Path, typer.Option(help="State directory of the demo; made anew each time.")
    ] = Path("state/demo"),
) -> None:
    """Play the whole story: refuse, counter, train, spend, verify; ends with where to look next."""
    # Imported late: the story brings the researcher's side along, which no other command needs.
    from gateway.demo import server, story

    console = Console(highlight=False)
    with explained():
        folder = server.fresh_state(state.resolve())
        with server.gateway(folder) as running:
            outcome = story.tell(console, running, folder)
    console.rule("done")
    console.print(f"  the same gateway, with all of this in it: privacy-gateway up --state {state}")
    console.print(f"  check the books again: privacy-gateway verify {state}/ledger.jsonl")
    console.print("  where to go next: docs/howto, one folder for each person of the story")
    raise typer.Exit(0 if outcome.audit_ok else 1)
