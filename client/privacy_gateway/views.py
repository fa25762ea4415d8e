"""What the gateway answers about accounts, budgets, data sets, policies and the ledger.

The counterpart of `privacy_gateway.schemas` (requests, quotes, jobs). A view must never carry a
record, a count that depends on raw data, or anything of another tenant. Times are RFC 3339 UTC
text, ε is a float for people beside integer nano-units or pico-nats where arithmetic matters.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field

from privacy_gateway.policy_views import CoverageView
from privacy_gateway.schemas import Identifier, JobRequest, Name, Role, Rule, Strict, View

Item = TypeVar("Item")


class NewToken(Strict):
    """Body of `POST /v1/tokens`."""

    label: Name
    hours: Annotated[float, Field(gt=0, le=8760)] = 24.0


class Approval(Strict):
    """Body of `POST /v1/jobs/{id}/approvals`; whoever sees the job reads the note."""

    decision: Literal["approve", "reject"]
    note: Annotated[str, Field(max_length=2000)] = ""


class Problem(View):
    """RFC 9457 problem document; further members (`rules`, `left`, `counter_offer`) are facts."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[dict[str, Any]]


class Page(View, Generic[Item]):
    """One page of a listing; `next` goes into `?after=` for the following one, None at the end."""

    items: list[Item]
    next: str | None = None


class LoginView(View):
    """A fresh token; its text is shown this once."""

    token: str
    token_id: str
    role: Role
    expires_at: str


class TokenView(View):
    """A token; `token` is its text, present only in the answer that made it."""

    id: str
    label: str
    created_at: str
    expires_at: str
    revoked: bool = False
    token: str | None = None


class UserView(View):
    """An account."""

    id: str
    email: str
    role: Role
    organisation: str
    created_at: str


class PopulationView(View):
    """A population and the total budget that protects its people."""

    id: str
    name: str
    privacy_unit: str
    clients: int
    epsilon: float
    delta: float
    owner_id: str
    frozen: bool
    second_person: bool = False
    filter: str = "rdp"
    blocks: int = 0
    created_at: str


class BlockView(View):
    """People of a population who are in no other block; `members` were enrolled by data sets.

    `intact` is None unless it was asked for: whether the members are those the ledger sealed.
    """

    name: str
    clients: int
    members: int
    members_digest: str | None = None
    intact: bool | None = None


class BlockBudgetView(View):
    """What the people of one block have spent, what counts for everybody included."""

    name: str
    clients: int
    epsilon_spent: float
    epsilon_reserved: float
    epsilon_remaining: float
    charged: list[int]
    reserved: list[int]


class ProjectView(View):
    """A piece of work; `members` are account ids, told to those who may change them."""

    name: str
    title: str
    organisation: str
    members: list[str] | None = None
    created_at: str


class ProposalView(View):
    """An act that waits, or waited, for a second person; `expired` when nobody came in time."""

    id: str
    kind: Literal["grant", "one_person", "activate_policy"]
    population: str
    body: dict[str, Any]
    reason: str
    proposed_by: str
    state: Literal["open", "approved", "rejected", "withdrawn", "expired"]
    decided_by: str | None = None
    decided_at: str | None = None
    note: str = ""
    created_at: str
    expires_at: str


class ProjectQuotaView(View):
    """One project's share of a population's budget."""

    project: str
    epsilon: float
    epsilon_spent: float
    epsilon_reserved: float


class QuotaView(View):
    """One researcher's share of a population's budget."""

    researcher: str
    epsilon: float
    epsilon_spent: float
    epsilon_reserved: float


class BudgetView(View):
    """The odometer: ε now or at an earlier moment, and the integers behind it.

    `limit`, `charged` and `reserved` are pico-nats of Rényi divergence, one per member of
    `orders`. A researcher sees the totals and only the quotas of their own. Where the population
    has `blocks`, the numbers are those of the block whose people have spent most.
    """

    population: str
    at: str | None = None
    epsilon: float
    delta: float
    epsilon_spent: float
    epsilon_reserved: float
    epsilon_remaining: float
    orders: list[float]
    limit: list[int]
    charged: list[int]
    reserved: list[int]
    quotas: list[QuotaView]
    project_quotas: list[ProjectQuotaView] = []
    blocks: list[BlockBudgetView] = []


class AssetView(View):
    """One array of a data set, named by a stable id; never its content."""

    id: str
    name: str
    dtype: str
    shape: list[int]


class DatasetView(View):
    """What is publicly known of a data set."""

    id: str
    name: str
    version: int
    population: str
    owner_id: str
    privacy_unit: str
    clients: int
    digest: str
    assets: list[dict[str, Any]]
    feature_shape: list[int]
    label: str
    classes: int | None
    test_examples: int
    test_public: bool = False
    tags: list[str]
    block: str | None = None
    policy: int | None = None
    frozen: bool = False
    created_at: str


class DecisionView(View):
    """One recorded answer of a policy, with the exact question it was asked."""

    id: str
    dataset: str
    job: str | None
    subject: str
    outcome: Literal["allow", "needs_approval", "deny"]
    code: str | None
    fault: str | None
    detail: str
    verdict: dict[str, Any]
    input: dict[str, Any]
    input_digest: str
    digest: str
    revision: int | None
    revision_digest: str | None
    library_digest: str
    engine: str
    engine_version: str
    latency_us: int
    created_at: str


class HealthView(View):
    """Liveness, or readiness with the state of each part."""

    status: Literal["ok", "degraded", "unready"]
    parts: dict[str, str] = {}


class RoundMetrics(View):
    """Metrics of a released model on public test data."""

    round: int
    metrics: dict[str, float]


class DryRun(Strict):
    """Body of `POST /v1/datasets/{id}/policies/{n}/dry-run`: a new request, or a past job's id.

    A new request is asked in the name of `as_researcher` (id or address), without it in that of a
    sample researcher who has neither quota nor history.
    """

    job: JobRequest | Identifier
    as_researcher: Name | None = None


class FindingView(View):
    """One remark about a policy text; `line` and `column` count from 1."""

    severity: Literal["error", "warning"]
    code: str
    message: str
    line: int
    column: int
    hint: str
    module: str


class TestView(View):
    """One `test_*` rule of the owner."""

    engine: str
    name: str
    passed: bool
    detail: str


class RevisionView(View):
    """A numbered policy text; `problems` are what keeps it from activation (only when examined)."""

    id: str
    dataset: str
    number: int
    state: Literal["draft", "active", "superseded"]
    stage: Literal["draft", "checked", "tested", "shadow", "active", "superseded"] = "draft"
    digest: str
    reason: str
    author_id: str
    created_at: str
    activated_at: str | None = None
    activated_by: str | None = None
    source: str | None = None
    tests: str | None = None
    findings: list[FindingView] = []
    results: list[TestView] = []
    problems: list[dict[str, Any]] = []
    coverage: CoverageView | None = None


class DryRunView(View):
    """What a revision decides about a request; nothing was recorded or reserved.

    `code` and `rules` are the whole refusal (policy, budget, floors) for a new request, and the
    policy's own for a past one.
    """

    outcome: Literal["allow", "needs_approval", "deny"]
    code: str | None
    rules: list[Rule]
    approvals: list[dict[str, Any]]
    obligations: dict[str, Any]
    detail: str
    input: dict[str, Any]


class EntryView(View):
    """One sealed ledger entry; `leaf` is the sealed truth, the rest names what it is about."""

    id: int
    population: str
    seq: int
    kind: str
    at: str
    job: str | None
    researcher: str | None
    actor: str | None
    rounds: int | None
    leaf: dict[str, Any]
    prev_hash: str
    hash: str


class CheckpointView(View):
    """A signed checkpoint of the log; `note` is the signed text, the rest is read from it."""

    origin: str
    size: int
    root: str
    note: str
    signed_at: str


class InclusionView(View):
    """That an entry is leaf `index` of the tree with `size` leaves and `root`; hashes are hex.

    The leaf's data is the entry's `hash`, 32 bytes; `leaf_hash` is SHA-256(0x00 || data).
    """

    population: str
    seq: int
    index: int
    size: int
    hash: str
    leaf_hash: str
    root: str
    path: list[str]


class ConsistencyView(View):
    """That the tree of `second` leaves only appended to the tree of `first`; hashes are hex."""

    first: int
    second: int
    first_root: str
    second_root: str
    path: list[str]


class LogKeyView(View):
    """A public key of the log, as `verify --key` takes it.

    `signs` says whether the newest checkpoint carries its signature.
    """

    public: str
    key_id: str
    first_signed_at: str
    signs: bool
