"""How fast does an auditor's laptop verify a ledger, beside what cannot be left out?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta

from accounting import curve, ledger
from accounting.plan import TrainingPlan
from benchmarks import market as markets
from benchmarks.report import Table
from benchmarks.timing import Sizes, alternate
from kit.clock import utc_now
from privacy_gateway.verify import verify

ROUNDS, BLOCK, KINDS = 100, 5, 8


def ask(sizes: Sizes) -> Iterator[Table]:
    """One export, verified and merely read."""
    wanted = 100_000 if sizes.full else 2_000 if sizes.quick else 10_000
    lines = _export(wanted)
    table = Table(
        "verify",
        "an export, offline, in pure Python",
        ("what", "entries", "seconds", "entries/s", "to parsing"),
    )
    acts = {
        "SHA-256 and JSON parsing alone": lambda: _parse(lines),
        "verify: chain, prices, filter, balances": lambda: _verify(lines),
    }
    taken = alternate(acts, runs=sizes.runs)
    first = next(iter(taken.values())).median
    for what, found in taken.items():
        count = len(lines)
        table.add(what, count, found.median, count / found.median, first / found.median)
    table.notes.append(
        f"one population, {KINDS} mechanisms, jobs of {ROUNDS} rounds charged {BLOCK} at a time; "
        "target: 1e5 entries ≤ 10 s"
    )
    yield table


def _parse(lines: list[bytes]) -> None:
    for line in lines:
        hashlib.sha256(line).digest()
        json.loads(line)


def _verify(lines: list[bytes]) -> None:
    """Verify an export that is whole.

    Raises:
        RuntimeError: something was found, so the figures mean nothing.
    """
    report = verify(lines)
    if not report.ok:
        raise RuntimeError(str(report.problems[0]))


def _export(entries: int) -> list[bytes]:
    """A ledger written by the ledger's own verbs."""
    now = utc_now()
    prices = [
        curve.price(TrainingPlan(100_000, 10, 1, 20.0 + kind).mechanism) for kind in range(KINDS)
    ]
    with markets.scratch() as folder, markets.sqlite(folder) as database:
        with database.unit_of_work() as session:
            ledger.open_population(
                session,
                population_id="pop_bench",
                name="bench",
                privacy_unit="person",
                clients=100_000,
                epsilon=100.0,
                delta=1e-6,
                owner_id="usr_owner",
                now=now,
            )
            for number in range(-(-entries // (ROUNDS // BLOCK + 2))):
                job = f"job_{number:08d}"
                balance = ledger.lock(session, ["pop_bench"])["pop_bench"]
                ledger.reserve(
                    session,
                    balance,
                    job_id=job,
                    researcher_id=f"usr_{number % 16:02d}",
                    price=prices[number % KINDS],
                    rounds=ROUNDS,
                    facts={"actor": "usr_bench"},
                    now=now,
                    lease_expires_at=now + timedelta(hours=1),
                )
                for first in range(1, ROUNDS + 1, BLOCK):
                    ledger.charge(
                        session,
                        job_id=job,
                        round_first=first,
                        rounds=BLOCK,
                        attempt=1,
                        fence=1,
                        facts={"actor": "usr_bench"},
                        now=now,
                    )
                ledger.settle(session, job_id=job, reason="completed", facts={}, now=now)
        with database.read() as session:
            return list(ledger.export_lines(session))
