"""`log-key`: the keys that sign the log's checkpoints. A private key is never printed."""

from __future__ import annotations

import typer

from gateway.cli.common import State, explained, load_settings

app = typer.Typer(no_args_is_help=True, help="Keys that sign the ledger's log.")


@app.command("list")
def list_(state: State = None) -> None:
    """Public keys of this gateway's key files, as `verify --key` takes them."""
    from accounting import log_keys

    with explained():
        for signer in log_keys.signers(load_settings(state).key_directory()):
            typer.echo(str(signer.verifier))


@app.command("add")
def add(state: State = None) -> None:
    """Make one more key. A running gateway signs with old and new from its next pass on.

    Give the new public key to everybody who verifies, then remove the old key's file.
    """
    from accounting import log_keys
    from privacy_gateway.errors import Refused

    with explained():
        folder = load_settings(state).key_directory()
        present = log_keys.signers(folder)
        if not present:
            raise Refused("not_ready", "there is no key yet; the gateway makes one when it starts")
        path = log_keys.add(folder, present[0].name)
        typer.echo(str(log_keys.signers(folder)[-1].verifier))
        typer.echo(f"private key in {path}", err=True)
