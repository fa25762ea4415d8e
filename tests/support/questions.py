"""Questions and answers for policy tests: an ordinary job, and changes to it by dotted path."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from policies import question as asked
from policies.question import Question
from tests.support.servers import REPOSITORY

MOMENT = datetime(2026, 3, 4, 10, 30, tzinfo=UTC)
EPSILON = 1_000_000_000
REGO = REPOSITORY / "rego"
EXAMPLES = sorted(path.name for path in (REGO / "examples").iterdir())

ALLOW_ALL = 'package open\n\ndecision := {"allow": true, "deny": set()}\n'
"""Fit for tests of engines only; it does not survive the probes."""


def question(**changes: Any) -> Question:
    """An ordinary job, with `job__rounds=3` for the member `job.rounds`."""
    built = asked.build(
        request_id="job_1",
        kind="train",
        at=MOMENT,
        subject=asked.SubjectFacts("usr_1", ("researcher",), "university"),
        dataset=asked.DatasetFacts("ds_1", "pop_1", 1000, "person", ("digits",)),
        job=asked.JobFacts(
            algorithm="dp_fedavg",
            purpose="research",
            rounds=20,
            clients_per_round=40,
            noise_multiplier=0.8,
            clip_norm=1.0,
            local_epochs=1,
            outputs=("weights", "receipt"),
            model=asked.ModelFacts("ab" * 32, ("Flatten", "Dense"), 7850),
        ),
        cost=asked.CostFacts(
            accountant="dp-accounting 0.6.0",
            delta=1e-5,
            epsilon_nano=3 * EPSILON // 2,
            budget_epsilon_nano_before=0,
            budget_epsilon_nano_after=3 * EPSILON // 2,
            compute=asked.ComputeFacts(800, 40),
        ),
        budget=asked.BudgetFacts(8 * EPSILON, 8 * EPSILON, 0),
        history=asked.HistoryFacts(),
        policy_id="pol_1",
        policy_version=1,
    )
    return changed(built, changes)


def changed(base: Question, changes: Mapping[str, Any]) -> Question:
    """The same document with members replaced; no check of the schema."""
    document = deepcopy(dict(base.document))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place: Any = document
        for parent in parents:
            place = place[parent]
        place[last] = value
    return Question.of_document(document)


def example(name: str) -> tuple[str, str]:
    """Source and tests of an example policy."""
    folder = REGO / "examples" / name
    return _read(folder / f"{name}.rego"), _read(folder / f"{name}_test.rego")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
