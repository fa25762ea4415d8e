"""`privacy-gateway`: the command line of everybody who talks to a gateway.

Every habit is one command; every listing can be JSON; every refusal says what to do next. Commands
here go over HTTP or work offline; the server distribution hangs its own on by the entry-point
group `privacy_gateway.commands`. Nothing here may know a database.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of the `privacy-gateway` command."""
    from privacy_gateway.cli.commands import run

    run()
