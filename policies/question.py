"""The question an owner's policy is asked: one canonical JSON document, the same for every engine.

ε appears only as whole nano-units, costs rounded up and what remains rounded down by the caller, so
that no policy needs float arithmetic and no two engines can differ at a cap. The document is stored
beside the decision, so this module must never put into it anything that depends on a client's data,
and no clock is read: time is an argument. Form: `policies/input.schema.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from datetime import UTC, datetime
from fractions import Fraction
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

from kit.clock import micros, rfc3339
from privacy_gateway import canonical
from privacy_gateway.errors import FieldError, Refused

SCHEMA = "privacy-gateway/policy-input/1"
SCHEMA_PATH = Path(__file__).with_name("input.schema.json")
LARGEST_QUESTION = 64 * 1024
PPM = 1_000_000

Kind = Literal["train", "evaluate", "query"]
_PLAIN = frozenset({int, str, bool, float, type(None)})
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True, slots=True)
class SubjectFacts:
    """Who asks."""

    id: str
    roles: tuple[str, ...]
    organisation: str


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What is asked about; `clients` is the public size of the population.

    `public_test_examples` counts the test records its owner declared public.
    """

    id: str
    population: str
    clients: int
    privacy_unit: str
    tags: tuple[str, ...] = ()
    public_test_examples: int = 0


@dataclass(frozen=True, slots=True)
class InitialFacts:
    """What a job begins with or measures: `none`, a `release` or an `upload`, and its id."""

    kind: Literal["none", "release", "upload"] = "none"
    id: str = ""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The architecture in short: digest, kinds of layers in order, number of parameters."""

    fingerprint: str
    layers: tuple[str, ...]
    parameters: int


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What is to be done. `clip_norm` is a number or `"adaptive"`; `project` may be empty.

    `split` says on whom: `clients`, or `public_test`, where cohort and noise are not used.
    """

    algorithm: str
    purpose: str
    rounds: int
    clients_per_round: int
    noise_multiplier: float
    clip_norm: float | str
    local_epochs: int
    outputs: tuple[str, ...]
    model: ModelFacts
    project: str = ""
    initial: InitialFacts = InitialFacts()
    split: str = "clients"


@dataclass(frozen=True, slots=True)
class ComputeFacts:
    """What it would take of the machines."""

    client_updates: int
    cpu_seconds_estimate: int


@dataclass(frozen=True, slots=True)
class CostFacts:
    """The price in privacy. `epsilon_nano` is the stand-alone ε of the job, rounded up.

    `budget_epsilon_nano_before` and `…_after` are the odometer's ε spent by the whole population,
    reservations included, without and with this job, rounded up.
    """

    accountant: str
    delta: float
    epsilon_nano: int
    budget_epsilon_nano_before: int
    budget_epsilon_nano_after: int
    compute: ComputeFacts


@dataclass(frozen=True, slots=True)
class QuotaFacts:
    """A researcher's or a project's share of the budget."""

    epsilon_nano: int
    remaining_epsilon_nano: int


@dataclass(frozen=True, slots=True)
class BudgetFacts:
    """The population's budget; what remains is rounded down. A quota is None without a share."""

    epsilon_nano: int
    remaining_epsilon_nano: int
    reserved_epsilon_nano: int
    quota: QuotaFacts | None = None
    project_quota: QuotaFacts | None = None


@dataclass(frozen=True, slots=True)
class HistoryFacts:
    """What this researcher did on this population before."""

    jobs_by_subject: int = 0
    charged_epsilon_nano_by_subject: int = 0
    last_job_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """The document, its canonical bytes and their SHA-256 (hex).

    `parts` are the bytes member by member, where the document was made here and not read.
    """

    document: Mapping[str, Any]
    canonical: bytes
    digest: str = field(default="")
    parts: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Question:
        """From a plain document; `build` is the usual way.

        Raises:
            Refused: `too_large` beyond 64 KB.
        """
        return cls._of_parts(document, canonical.members(document, floats=True))

    @classmethod
    def _of_parts(cls, document: Mapping[str, Any], parts: Mapping[str, bytes]) -> Question:
        data = canonical.joined(parts)
        if len(data) > LARGEST_QUESTION:
            error = FieldError("job", f"makes a policy question of {len(data)} bytes")
            raise Refused(
                "too_large",
                f"the policy question has {len(data)} bytes; at most {LARGEST_QUESTION}",
                errors=[error],
            )
        return cls(document, data, hashlib.sha256(data).hexdigest(), parts)

    def replaced(self, members: Mapping[str, Any]) -> Question:
        """The question with these members, whose other members are not written again.

        Raises:
            Refused: `too_large` beyond 64 KB.
        """
        kept = self.parts or canonical.members(self.document, floats=True)
        return self._of_parts(
            {**self.document, **members}, {**kept, **canonical.members(members, floats=True)}
        )

    @classmethod
    def of_bytes(cls, data: bytes) -> Question:
        """From stored canonical bytes, for replay; the bytes are asked exactly as stored."""
        document = canonical.loads_strict(data, max_bytes=LARGEST_QUESTION)
        return cls(document, data, hashlib.sha256(data).hexdigest())


def build(
    *,
    request_id: str,
    kind: Kind,
    at: datetime,
    subject: SubjectFacts,
    dataset: DatasetFacts,
    job: JobFacts,
    cost: CostFacts,
    budget: BudgetFacts,
    history: HistoryFacts,
    policy_id: str,
    policy_version: int,
) -> Question:
    """The question about one job at one moment.

    Args:
        request_id: names the request; a repeated question about one job has the job's id.
        kind: what is asked for.
        at: timezone-aware time of the request.
        subject: the researcher.
        dataset: public facts of the data set.
        job: the request itself.
        cost: its price.
        budget: the population's budget before it.
        history: the researcher's earlier jobs.
        policy_id: id of the revision that is asked; empty when there is none.
        policy_version: its number; 0 when there is none.

    Raises:
        Refused: `too_large` beyond 64 KB.
        ValueError: a number that is not finite, or a time without a zone.
    """
    return Question.of_document(
        {
            "schema": SCHEMA,
            "dataset": _plain(dataset),
            "job": _plain(job),
            **_moving(request_id, kind, at, subject, cost, budget, history),
            "derived": _derived(job, dataset.clients, cost),
            "policy": {"id": policy_id, "version": policy_version},
        }
    )


def at_moment(
    question: Question,
    *,
    request_id: str,
    kind: Kind,
    at: datetime,
    subject: SubjectFacts,
    cost: CostFacts,
    budget: BudgetFacts,
    history: HistoryFacts,
) -> Question:
    """The question about the same job on the same data set at another moment.

    It equals what `build` would make, where the population's number and δ, the data set, the job
    and the policy are those of `question`; see `build` for the arguments.

    Raises:
        Refused: `too_large` beyond 64 KB.
        ValueError: a number that is not finite, or a time without a zone.
    """
    return question.replaced(_moving(request_id, kind, at, subject, cost, budget, history))


def of_job(question: Question, *, job: JobFacts, cost: CostFacts) -> Question:
    """The question about another job of the same kind at the same moment under the same facts.

    It equals what `build` would make, where everything but `job` and `cost` is that of `question`.

    Raises:
        Refused: `too_large` beyond 64 KB.
    """
    derived = _derived(job, question.document["dataset"]["clients"], cost)
    return question.replaced({"job": _plain(job), "cost": _plain(cost), "derived": derived})


def for_policy(question: Question, policy_id: str, policy_version: int) -> Question:
    """The same question, asked of another revision (dry run, replay)."""
    return question.replaced({"policy": {"id": policy_id, "version": policy_version}})


@cache
def input_schema() -> Mapping[str, Any]:
    """The JSON Schema (2020-12) of the document."""
    schema: Mapping[str, Any] = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    return schema


def moment_of(at: datetime) -> dict[str, Any]:
    """The members of `request` that tell the time.

    Raises:
        ValueError: a time without a zone.
    """
    return dict(_moment(at))


@lru_cache(maxsize=64)
def _moment(at: datetime) -> Mapping[str, Any]:
    """Equal times of different zones are one moment, and a group of jobs has one time."""
    if at.tzinfo is None:
        raise ValueError("a time without a zone has no place in a question")
    moment = at.astimezone(UTC)
    return {
        "time": rfc3339(moment),
        "time_ns": micros(moment) * 1000,
        "weekday": _WEEKDAYS[moment.weekday()],
        "minute_of_day_utc": moment.hour * 60 + moment.minute,
    }


def _moving(
    request_id: str,
    kind: Kind,
    at: datetime,
    subject: SubjectFacts,
    cost: CostFacts,
    budget: BudgetFacts,
    history: HistoryFacts,
) -> dict[str, Any]:
    """The members that are others at another moment."""
    return {
        "request": {"id": request_id, "kind": kind, **moment_of(at)},
        "subject": _plain(subject),
        "cost": _plain(cost),
        "budget": _budget(budget),
        "history": _history(history),
    }


def _budget(budget: BudgetFacts) -> dict[str, Any]:
    """Without a share the budget is the share: engines differ on `not` over a missing path."""
    whole = QuotaFacts(budget.epsilon_nano, budget.remaining_epsilon_nano)
    shares = {"quota": budget.quota, "project_quota": budget.project_quota}
    return _plain(budget) | {
        name: {"limited": share is not None, **_plain(share or whole)}
        for name, share in shares.items()
    }


def _history(history: HistoryFacts) -> dict[str, Any]:
    last = history.last_job_time
    return {
        "jobs_by_subject": history.jobs_by_subject,
        "charged_epsilon_nano_by_subject": history.charged_epsilon_nano_by_subject,
        "last_job_time": None if last is None else rfc3339(last),
    }


def _derived(job: JobFacts, clients: int, cost: CostFacts) -> dict[str, int | None]:
    """Whole numbers for what is a fraction; rounded so that a policy errs towards privacy."""
    adaptive = isinstance(job.clip_norm, str)
    return {
        "sampling_rate_ppm": -(-job.clients_per_round * PPM // clients),
        "delta_times_clients_ppm": -int(-_ppm(cost.delta) * clients // 1),
        "noise_multiplier_ppm": int(_ppm(job.noise_multiplier) // 1),
        "clip_norm_ppm": None if adaptive else -int(-_ppm(float(job.clip_norm)) // 1),
    }


@lru_cache(maxsize=4096)
def _ppm(value: float) -> Fraction:
    """Exact millionths of the shortest decimal that means this float: 0.3 is 300,000."""
    return Fraction(repr(float(value))) * PPM


def _plain(facts: Any) -> dict[str, Any]:
    """A dataclass as JSON: tuples become lists."""
    return {name: _listed(getattr(facts, name)) for name in type(facts).__slots__}


def _listed(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is tuple:
        return list(value)
    return _plain(value) if is_dataclass(value) else value
