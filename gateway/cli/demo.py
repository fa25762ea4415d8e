"""`demo`: the main job end to end on this machine, on real data, in one command."""

from __future__ import annotations

import importlib
import os
import threading
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
    # The researcher's own TensorFlow shall not talk into the story.
    os.environ.update({"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"})
    # Imported late: the story brings the researcher's side along, which no other command needs.
    from gateway.demo import server, story

    console = Console(highlight=False)
    # Her notebook opens while the gateway starts: importing Keras takes seconds.
    threading.Thread(target=importlib.import_module, args=("keras",), daemon=True).start()
    with explained():
        folder = server.fresh_state(state.resolve())
        with server.gateway(folder) as running:
            outcome = story.tell(console, running, folder)
    console.rule("done")
    console.print(f"  the same gateway, with all of this in it: privacy-gateway up --state {state}")
    console.print(f"  check the books again: privacy-gateway verify {state}/ledger.jsonl")
    console.print("  where to go next: docs/howto, one folder for each person of the story")
    raise typer.Exit(0 if outcome.audit_ok else 1)
