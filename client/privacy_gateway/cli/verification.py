"""`verify`: an export against itself, its log, its decisions, and what the auditor kept."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privacy_gateway import tabular
from privacy_gateway.canonical import loads_strict
from privacy_gateway.cli.ledger import DAMAGED, keys_of, text_of
from privacy_gateway.cli.output import Form, Format, facts, listing, note
from privacy_gateway.errors import invalid

if TYPE_CHECKING:
    from privacy_gateway.findings import PopulationReport, Report
    from privacy_gateway.logbook import LogReport
    from privacy_gateway.readings import Readings

# Above this PLD and PRV take longer than the verification; they are composed when asked for.
EASY_MECHANISMS, EASY_ROUNDS = 8, 10_000


def verify(
    export: Annotated[Path, typer.Argument(help="A ledger export: .csv, .parquet, or JSON lines.")],
    expect: Annotated[
        list[str] | None,
        typer.Option(
            "--expect", help="POPULATION:SEQ:HASH known from elsewhere (a receipt); repeatable."
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="Public key of the log, or a file of them; repeatable."),
    ] = None,
    older: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="A checkpoint kept from earlier; the log must grow it."),
    ] = None,
    consistency: Annotated[
        Path | None,
        typer.Option(
            "--consistency",
            help="For an owner's export: the answer of /v1/ledger/proofs/consistency.",
        ),
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option("--decisions", help="The decision log, from `ledger decisions`."),
    ] = None,
    compose: Annotated[
        bool | None,
        typer.Option(
            "--readings/--no-readings",
            help="Compose what was charged by PLD and PRV too; without, where that is quick.",
        ),
    ] = None,
    form: Format = Form.table,
) -> None:
    """Check a ledger export without any server: seals, prices, limits, log. Ends with 8 on damage.

    Every entry's chain is followed, every price recomputed by an engine that did not charge it,
    every admission replayed against the budget's limits, and the log's tree built anew up to the
    checkpoint at the export's end. With --key the checkpoint's signature is checked too, with
    --decisions every reservation and charge is matched with the decision that allowed it.
    """
    from privacy_gateway import verify as verifier
    from privacy_gateway.logbook import Asked

    if consistency and not older:
        raise invalid("consistency", "leads on from a --checkpoint; give that one, too")
    heads = [_head(text) for text in expect or []]
    asked = Asked(
        keys=[found for text in key or [] for found in keys_of(text)],
        older=text_of("checkpoint", older) if older else None,
        consistency=_proof(consistency) if consistency else None,
    )
    try:
        with ExitStack() as files:
            lines = files.enter_context(tabular.opened(export))
            log = files.enter_context(decisions.open("rb")) if decisions else None
            report = verifier.verify(lines, expect_heads=heads, asked=asked, decisions=log)
    except OSError as error:
        field = "decisions" if decisions and error.filename == str(decisions) else "export"
        raise invalid(field, f"{error.filename} cannot be read: {error.strerror}") from error
    readings = {} if compose is False else _readings(report, asked_for=bool(compose))
    _show(report, readings, form)
    if not report.ok:
        found = len(report.problems)
        problems = "1 problem" if found == 1 else f"{found} problems"
        note(f"{problems}: this ledger is not what was written")
        raise SystemExit(DAMAGED)
    note("every entry is sealed, priced and admitted as it should be")
    if report.decisions is not None:
        note(f"{report.decisions} entries were allowed by the decisions they name")
    _note_log(report.log)


def _note_log(log: LogReport | None) -> None:
    """What stands behind the good news, and what does not."""
    if log is None:
        note("the export has no checkpoint: a history rewritten as a whole would not show")
        return
    note(f"log {log.origin}: {log.size} entries under root {log.root}")
    if log.beyond:
        note(f"{log.beyond} entries are newer than the checkpoint or were not proven")
    if log.grown_from is not None:
        note(f"it contains all {log.grown_from} entries of the older checkpoint, unchanged")
    for key in log.signed_by:
        note(f"signed by {key}")
    if not log.signed_by:
        note("its signature was not checked; pass --key (see `ledger keys`)")


def _readings(report: Report, *, asked_for: bool) -> dict[str, Readings]:
    """What was charged, composed three ways; not of a ledger whose charges are in doubt."""
    from privacy_gateway import readings

    found = {}
    for name, population in report.populations.items() if report.ok else ():
        if asked_for or _easy(population):
            found[name] = readings.read(population.spent, float(population.delta))
    return found


def _easy(population: PopulationReport) -> bool:
    rounds = sum(rounds for _, rounds in population.spent)
    return len(population.spent) <= EASY_MECHANISMS and rounds <= EASY_ROUNDS


def _proof(path: Path) -> dict[str, Any]:
    found = loads_strict(text_of("consistency", path).encode())
    if not isinstance(found, dict):
        raise invalid("consistency", f"{path} holds no proof of consistency")
    return found


def _head(text: str) -> tuple[str, int, str]:
    """`POPULATION:SEQ:HASH`."""
    parts = text.split(":")
    if len(parts) != 3 or not parts[1].isascii() or not parts[1].isdigit():
        raise invalid("expect", "has the form POPULATION:SEQ:HASH", value=text[:200])
    return parts[0], int(parts[1]), parts[2]


def _show(report: Report, readings: dict[str, Readings], form: Form) -> None:
    """The populations, what they spent by each reading, and the problems if there are any."""
    told = asdict(report)
    for name, reading in readings.items():
        told["populations"][name]["readings"] = asdict(reading)
    if form is Form.json:
        facts(form, told)
        return
    columns = ["population", "name", "entries", "jobs", "rounds_charged", "epsilon"]
    columns += ["epsilon_spent", "epsilon_committed", "delta", "head_hash"]
    listing(form, list(told["populations"].values()), columns)
    for name, reading in readings.items():
        note(_sentence(name, reading))
    if told["problems"]:
        print()
        listing(form, told["problems"], ["line", "population", "seq", "kind", "part", "detail"])


def _sentence(name: str, reading: Readings) -> str:
    """The order of the readings, or what stands in its way."""
    parts = [f"RDP {reading.rdp:.6g}"]
    if reading.pld is not None:
        parts.append(f"PLD {reading.pld:.6g}")
    if reading.prv_lower is not None:
        parts.append(f"PRV lower bound {reading.prv_lower:.6g}")
    joined = " ≥ ".join(parts) if reading.ordered else " | ".join(parts) + ", out of order"
    notes = "".join(f"; {text}" for text in reading.notes)
    return f"{name}, ε of all charges as if planned at once: {joined}{notes}"
