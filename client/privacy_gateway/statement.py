"""A statement of account of one population over one period, made from ledger entries alone.

The server builds it from the database, an auditor builds it again from an export, and both must
come to the same words: this module is pure, holds integers and strings only, and never reads a
clock. A statement is signed by the keys of the ledger's log and carries the checkpoint under which
its last entry stands, so it can be checked with nothing but a public key.

The period is [from, to). The state at a time is that after the entry with the largest `seq` among
those dated before it, the odometer's rule, so the closing of one statement is the opening of the
next. Entries are dated before they are committed: a statement that ends less than a minute before
it is issued says `"final": false`, because an entry of its period may still come in.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from privacy_gateway import canonical, chain, checkpoint, merkle
from privacy_gateway.account import FORMAT, Sealed, build
from privacy_gateway.checkpoint import BadNote, Signer, Verifier

PAGE_FORMAT: Final = "privacy-gateway-statement-page/1"
FINAL_MICROS: Final = 60_000_000
MAX_ENTRIES: Final = 100_000
# What the gateway adds to the account itself; an export knows nothing of it.
_ISSUED: Final = ("issued_at", "final", "log")
_MARK: Final = "<!-- everything above is signed by the ledger's keys:\n"
_END: Final = "-->\n"
_SIGNED: Final = re.compile(r'<pre id="signed">([^<]*)</pre>')


def issued(account: Mapping[str, Any], *, now: int, log: Mapping[str, Any]) -> dict[str, Any]:
    """The statement to be signed: the account, when it was made, and where it stands in the log."""
    final = account["period"]["to"] <= now - FINAL_MICROS
    return {**account, "issued_at": now, "final": final, "log": log}


def text_of(statement: Mapping[str, Any]) -> str:
    """What is signed: the format on a line of its own, then the canonical JSON."""
    return f"{FORMAT}\n{canonical.dumps(statement).decode()}\n"


def sign(statement: Mapping[str, Any], signers: Iterable[Signer]) -> dict[str, Any]:
    """The document that is handed out: statement and signature lines."""
    lines = checkpoint.sign_text(text_of(statement), signers)
    return {"statement": dict(statement), "signatures": list(lines)}


def check(document: Any, keys: Sequence[Verifier]) -> tuple[Verifier, ...]:
    """Who signed a statement; that its last entry is under its checkpoint is checked too.

    Raises:
        BadNote: it is none, no given key signed it, or it contradicts its checkpoint.
    """
    statement = _statement(document)
    try:
        text = text_of(statement)
        believed = checkpoint.check_text(text, document["signatures"], keys)
        _check_log(statement["log"], statement["closing"]["hash"], keys)
    except (LookupError, TypeError, ValueError) as error:
        raise BadNote("malformed", f"it has not the form of a {FORMAT}") from error
    return believed


def sign_page(body: str, signers: Iterable[Signer]) -> str:
    """A page that shows a statement, with signatures over all of it as a last comment."""
    above = f"{body.rstrip()}\n"
    lines = checkpoint.sign_text(f"{PAGE_FORMAT}\n{above}", signers)
    return f"{above}{_MARK}" + "\n".join((*lines, _END))


def read_page(page: str, keys: Sequence[Verifier]) -> Any:
    """The document inside a page whose every byte one of the keys signed; see `check` for it.

    Raises:
        BadNote: it is no such page, or was changed.
    """
    above, mark, below = page.rpartition(_MARK)
    found = _SIGNED.search(above)
    if not mark or not below.rstrip("\n").endswith(_END.rstrip("\n")) or found is None:
        raise BadNote("malformed", "it is no page of a statement")
    lines = below.strip("\n").split("\n")[:-1]
    checkpoint.check_text(f"{PAGE_FORMAT}\n{above}", lines, keys)
    try:
        return json.loads(html.unescape(found[1]))
    except ValueError as error:
        raise BadNote("malformed", "the page holds no statement") from error


def differences(
    document: Any, read: Callable[[], Iterable[bytes]]
) -> tuple[list[str], dict[str, Any]]:
    """Build the account again from an export and name what differs.

    Args:
        document: a statement whose signature was checked.
        read: opens the export; called twice.

    Returns:
        Members that differ, and the account that the export leads to.

    Raises:
        BadNote: the document is no statement.
    """
    statement = _statement(document)
    population, period = statement["population"]["population"], statement["period"]
    opening, closing = statement["opening"]["seq"], statement["closing"]["seq"]
    latest = [0, 0]
    opened: Mapping[str, Any] | None = None
    before: Sealed | None = None
    for entry in _entries(read(), population):
        seq, at = entry.leaf["seq"], entry.leaf["at"]
        for place, end in enumerate((period["from"], period["to"])):
            if at < end:
                latest[place] = max(latest[place], seq)
        opened = entry.leaf if seq == 1 else opened
        before = entry if seq == opening else before
    if opened is None or (opening and before is None):
        return ["population"], {}
    within = (
        entry for entry in _entries(read(), population) if opening < entry.leaf["seq"] <= closing
    )
    account = build(opened, before, within, (period["from"], period["to"]))
    wrong = [name for name, value in account.items() if statement.get(name) != value]
    late = latest[1] > closing and not statement["final"]
    if latest[0] != opening or (latest[1] != closing and not late):
        wrong.append("period")
    extra = statement.keys() - account.keys() - set(_ISSUED)
    return sorted({*wrong, *extra}), account


def _statement(document: Any) -> dict[str, Any]:
    """The signed part of a document that has the form of one."""
    statement = document.get("statement") if isinstance(document, dict) else None
    signatures = document.get("signatures") if isinstance(document, dict) else None
    formed = (
        isinstance(statement, dict)
        and statement.get("format") == FORMAT
        and isinstance(signatures, list)
        and all(isinstance(line, str) for line in signatures)
        and {"population", "period", "opening", "closing", *_ISSUED} <= statement.keys()
    )
    if not formed:
        raise BadNote("malformed", f"it is no {FORMAT}")
    assert isinstance(statement, dict)  # noqa: S101 - said above
    return statement


def _check_log(log: Mapping[str, Any], sealed: str, keys: Sequence[Verifier]) -> None:
    head, _ = checkpoint.verify(log["checkpoint"], keys)
    proven = merkle.verify_inclusion(
        merkle.leaf_hash(bytes.fromhex(sealed)),
        log["index"],
        head.size,
        [bytes.fromhex(part) for part in log["path"]],
        head.root,
    )
    if not proven:
        raise BadNote("bad_signature", "its last entry is not proven to be under its checkpoint")


def _entries(lines: Iterable[bytes], population: str) -> Iterable[Sealed]:
    for line in lines:
        cut = chain.read_line(line.rstrip(b"\n"))
        if cut is None:
            continue
        leaf = json.loads(cut.leaf)
        if leaf.get("population") == population:
            yield Sealed(leaf, cut.hash)
