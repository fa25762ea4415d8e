"""What a command prints: tables for people, JSON for programs, one way to fail.

Exit codes are public (`EXITS`); results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from privacy_gateway.errors import Refused
from privacy_gateway.notebook import plain_table, text_of

EXITS: dict[int, str] = {
    0: "done",
    1: "failed in a way that is a bug; please report it",
    2: "the command line does not have the documented form",
    3: "refused: by the request's form, the policy, the budget or a floor",
    4: "not logged in, or the account's role does not allow this",
    5: "there is no such thing, or it is not yours to see",
    6: "the gateway, or a part of it, cannot be reached now; try again",
    7: "the job ended without completing, or the result is not there yet",
    8: "verification found damage",
}
EXIT_OF = {
    "unauthenticated": 4,
    "forbidden": 4,
    "not_found": 5,
    "unavailable": 6,
    "policy_unavailable": 6,
    "internal": 6,
    "not_ready": 7,
}
NEXT = {
    "unauthenticated": "run `privacy-gateway login --email …`, or set PRIVACY_GATEWAY_TOKEN",
    "forbidden": "log in with an account of another role",
    "not_found": "list what is yours with `population list`, `dataset list` or `jobs list`",
    "unavailable": "check the address and the gateway's /readyz, then run the command again",
    "budget_exceeded": "see `privacy-gateway quote` for the nearest job that fits",
    "quota_exceeded": "see `privacy-gateway quote` for the nearest job that fits",
    "policy_denied": "see `privacy-gateway quote` for the nearest job that passes",
    "policy_unavailable": "nothing was admitted; run the command again later",
    "policy_refused": "correct the findings and run `privacy-gateway policy publish` again",
    "frozen": "ask the owner; `population unfreeze` or `dataset unfreeze` lets jobs go on",
    "not_ready": "wait with `privacy-gateway jobs watch JOB`",
    "idempotency_mismatch": "use a new --key for a new job",
}


class Form(StrEnum):
    """How a listing is printed."""

    table = "table"
    json = "json"


Format = Annotated[Form, typer.Option("--format", help="`table` for people, `json` for programs.")]


def plain(value: Any) -> Any:
    """JSON values of anything a command has in hand."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(name): plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [plain(member) for member in value]
    return value


def listing(form: Form, rows: Sequence[Any], columns: Sequence[str]) -> None:
    """A list of things: chosen columns as a table, or everything as a JSON array."""
    values = [plain(row) for row in rows]
    if form is Form.json:
        _json(values)
        return
    if not _terminal():
        print(plain_table(columns, ([value.get(c) for c in columns] for value in values)))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for value in values:
        table.add_row(*(escape(text_of(value.get(column))) for column in columns))
    Console(highlight=False).print(table)


def facts(form: Form, value: Any, shown: Mapping[str, Any] | None = None) -> None:
    """One thing: its facts a line each (`shown`, else all members), or as a JSON object."""
    if form is Form.json:
        _json(plain(value))
        return
    members = shown if shown is not None else plain(value)
    if not _terminal():
        print(plain_table(("", ""), members.items()).partition("\n")[2])
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, fact in members.items():
        table.add_row(escape(name.replace("_", " ")), escape(text_of(fact)))
    Console(highlight=False).print(table)


def note(text: str) -> None:
    """A remark for a person, on standard error."""
    print(text, file=sys.stderr)


@contextmanager
def explained(advice: Mapping[str, str] = NEXT) -> Iterator[None]:
    """A refusal becomes a text with the next step and its exit code, never a stack trace."""
    try:
        yield
    except Refused as refusal:
        fail(refusal, advice)


def fail(refusal: Refused, advice: Mapping[str, str] = NEXT) -> NoReturn:
    """Say what was refused, what to do next, and end."""
    note(_told(refusal))
    if refusal.code in advice:
        note(f"next: {advice[refusal.code]}")
    raise SystemExit(EXIT_OF.get(refusal.code, 3))


def _told(refusal: Refused) -> str:
    """The refusal's own diagnostics, with nested facts made readable."""
    lines = [f"{refusal.code}: {refusal.detail}"]
    lines += [f"  {error.field}: {error.message}" for error in refusal.errors]
    for name, fact in refusal.facts.items():
        if name == "rules" and refusal.errors:
            continue  # the same as the errors above
        if name == "counter_offer" and isinstance(fact, Mapping):
            offers = fact.get("directions") or [fact]
            fact = [{part: each[part] for part in ("changed", "epsilon")} for each in offers]
        members = fact if isinstance(fact, list) else [fact]
        lines += [f"  {name.replace('_', ' ')}: {text_of(member)}" for member in members]
    return "\n".join(lines)


def _json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _terminal() -> bool:
    """Colours and folded columns are for a screen; a pipe gets whole lines."""
    return sys.stdout.isatty()
