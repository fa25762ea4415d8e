"""Whether one revision would let through what another one does not: what a second person is for.

Both texts are asked the same questions: the stored ones of the past, some of those moved to the
numbers that either text mentions (a raised limit shows at the new one), and the ordinary jobs that
activation tries. The answer leans to one side: nothing to compare with and an engine that failed
just now count as looser. It cannot prove a text stricter, so it must never be told as a proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from policies.engine import PolicyEngine, Revision
from policies.probes import samples
from policies.question import PPM, Question, for_policy
from policies.replay import OF_THE_MOMENT, decide_all
from policies.text import tokens
from policies.verdict import ISOLATION, OUTPUTS, Approval, Obligations, Verdict

PAST: Final = 2_000
"""How many of the newest stored questions are asked."""
_MOVED: Final = 3
_NUMBERS: Final = 40


@dataclass(frozen=True, slots=True)
class Comparison:
    """A draft held against the revision that decides.

    Attributes:
        active_id: the revision it was held against; None where none decides.
        active_number: its number; 0 where none decides.
        past: how many stored questions were asked.
        loosened: how many questions, stored or ordinary, the draft answers less strictly.
    """

    active_id: str | None
    active_number: int
    past: int
    loosened: int

    @property
    def looser(self) -> bool:
        """Whether a second person has to agree."""
        return self.active_id is None or self.past == 0 or self.loosened > 0


def compare(
    engine: PolicyEngine,
    active: Revision | None,
    draft: Revision,
    decisions: Iterable[Mapping[str, Any]],
) -> Comparison:
    """Ask both texts everything there is to ask.

    Args:
        engine: who evaluates.
        active: the revision that decides now, if any.
        draft: what would decide instead.
        decisions: rows as `revisions.decisions` gives them, `input` parsed.
    """
    rows = list(decisions)
    if active is None or not rows:
        number = 0 if active is None else active.number
        return Comparison(None if active is None else active.id, number, len(rows), 0)
    asked = [Question.of_document(row["input"]) for row in rows]
    asked += [probe.question for text in (active, draft) for probe in samples(text.source)]
    asked += _at_limits(active.source + "\n" + draft.source, rows)
    (before, _), (after, unsure) = (_answers(engine, text, asked) for text in (active, draft))
    loosened = sum(
        doubt or looser(first, second)
        for first, second, doubt in zip(before, after, unsure, strict=True)
    )
    return Comparison(active.id, active.number, len(rows), loosened)


def looser(before: Verdict, after: Verdict) -> bool:
    """Whether `after` asks less of a job than `before` did."""
    if after.outcome == "deny":
        return False
    if before.outcome == "deny":
        return True
    kept = all(any(_covers(new, old) for new in after.approvals) for old in before.approvals)
    return not (kept and _as_strict(after.obligations, before.obligations))


def _answers(
    engine: PolicyEngine, text: Revision, asked: list[Question]
) -> tuple[list[Verdict], list[bool]]:
    """Verdicts, and where the engine's failure of this moment makes one worth nothing."""
    documents = [for_policy(question, text.id, text.number).canonical for question in asked]
    answers = decide_all(engine, text, documents)
    return [verdict for verdict, *_ in answers], [
        fault is not None and str(fault) in OF_THE_MOMENT for _, fault, _ in answers
    ]


def _at_limits(text: str, rows: list[Mapping[str, Any]]) -> Iterator[Question]:
    """Past questions, those that were let through before others, moved to each number of a text."""
    newest = rows[::-1]
    told = sorted(newest, key=lambda row: row.get("outcome") == "deny")[:_MOVED]
    found = {float(one.text): None for one in tokens(text) if one.kind == "number"}
    for row, number, step in product(told, list(found)[:_NUMBERS], (-1, 0, 1)):
        for name in ("rounds", "clients_per_round", "noise_multiplier", "epsilon_nano"):
            moved = _moved(row["input"], name, number, step)
            if moved is not None:
                yield Question.of_document(moved)


def _moved(asked: Mapping[str, Any], name: str, number: float, step: int) -> dict[str, Any] | None:
    """A question with one of its numbers at a limit or beside it; None where it cannot be there."""
    document: dict[str, Any] = deepcopy(dict(asked))
    job, cost, derived = document["job"], document["cost"], document["derived"]
    if name == "noise_multiplier":
        # A text gives noise as it is or in millionths.
        noise = (number if number < PPM / 100 else number / PPM) * (1 + step / 100)
        job[name], derived["noise_multiplier_ppm"] = noise, round(noise * PPM)
        return document if noise > 0 else None
    whole = round(number) + step
    if name == "epsilon_nano":
        cost[name] = whole
        cost["budget_epsilon_nano_after"] = cost["budget_epsilon_nano_before"] + whole
    else:
        job[name] = whole
    if name == "clients_per_round":
        clients = document["dataset"]["clients"]
        derived["sampling_rate_ppm"] = whole * PPM // clients
        return document if 1 <= whole <= clients else None
    return document if 1 <= whole < 2**53 else None


def _covers(new: Approval, old: Approval) -> bool:
    """As many people of that role, who are given no longer."""
    return new.role == old.role and new.count >= old.count and new.within_hours <= old.within_hours


def _as_strict(new: Obligations, old: Obligations) -> bool:
    """Whether every obligation is kept or became stricter."""
    outputs = (OUTPUTS if new.outputs is None else new.outputs) <= (
        OUTPUTS if old.outputs is None else old.outputs
    )
    parallel = old.max_parallel_jobs is None or (
        new.max_parallel_jobs is not None and new.max_parallel_jobs <= old.max_parallel_jobs
    )
    delay = (new.release_delay_hours or 0) >= (old.release_delay_hours or 0)
    return outputs and parallel and delay and _isolation(new) >= _isolation(old)


def _isolation(obligations: Obligations) -> int:
    """Weakest first; nothing demanded is weaker than all."""
    return -1 if obligations.isolation is None else ISOLATION.index(obligations.isolation)
