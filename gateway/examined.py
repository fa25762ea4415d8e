"""Revisions as they are told: with findings, test results, coverage and problems.

Shared by the endpoints that draft, activate, go back and try out. Nothing here may decide whether a
revision passes.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from gateway import dryrun, scope
from jobs.principal import Principal
from jobs.services import Services
from kit.clock import rfc3339
from policies.activation import Examination
from policies.embedded import EmbeddedEngine
from policies.engine import PolicyEngine, Revision
from policies.probes import Floor, floor_of
from privacy_gateway.errors import FieldError, Refused
from privacy_gateway.policy_views import CoverageView
from privacy_gateway.views import FindingView, RevisionView, TestView


def floor(services: Services) -> Floor:
    """The floors of this gateway, as probes meet them."""
    return floor_of(
        minimum_clients_per_round=services.settings.minimum_clients_per_round,
        minimum_noise_multiplier=services.settings.minimum_noise_multiplier,
    )


def asking(session: Session, caller: Principal, named: str | None) -> Principal:
    """In whose name a new request is tried: a named researcher's, or a sample one's.

    Raises:
        Refused: `not_found` on `as_researcher`.
    """
    if named is None:
        return dryrun.sample_researcher(caller)
    try:
        return scope.researcher(session, named)
    except Refused as refused:
        fault = FieldError("as_researcher", "names no researcher", named)
        raise Refused(refused.code, "as_researcher: names no researcher", errors=[fault]) from None


def embedded(examiners: tuple[PolicyEngine, ...]) -> EmbeddedEngine:
    """The engine that answers in batches; every gateway has one among its examiners.

    Raises:
        Refused: `policy_unavailable`.
    """
    for engine in examiners:
        if isinstance(engine, EmbeddedEngine):
            return engine
    raise Refused("policy_unavailable", "trials need the embedded engine")


def plain(revision: Revision) -> RevisionView:
    """A revision with its texts."""
    made, activated = revision.created_at, revision.activated_at
    return RevisionView(
        id=revision.id,
        dataset=revision.dataset_id,
        number=revision.number,
        state=revision.state,
        stage=revision.stage,
        digest=revision.digest,
        reason=revision.reason,
        author_id=revision.author_id,
        created_at=rfc3339(made) if made else "",
        activated_at=rfc3339(activated) if activated else None,
        activated_by=revision.activated_by,
        source=revision.source,
        tests=revision.tests,
    )


def brief(revision: Revision) -> RevisionView:
    """A revision without its texts, for listings."""
    return plain(revision).model_copy(update={"source": None, "tests": None})


def view(revision: Revision, examination: Examination) -> RevisionView:
    """A revision with what every engine said about it."""
    findings = [
        FindingView(
            severity=item.severity,
            code=item.code,
            message=item.message,
            line=item.line,
            column=item.column,
            hint=item.hint,
            module=item.module,
        )
        for item in examination.findings.items
    ]
    results = [
        TestView(engine=engine, name=test.name, passed=test.passed, detail=test.detail)
        for engine, report in examination.tests.items()
        for test in report.results
    ]
    problems = [problem.as_dict() for problem in examination.problems]
    return plain(revision).model_copy(
        update={
            "findings": findings,
            "results": results,
            "problems": problems,
            "coverage": _coverage(examination),
        }
    )


def _coverage(examination: Examination) -> CoverageView | None:
    """What the owner's tests reach, where they were run."""
    found = examination.coverage
    if found is None:
        return None
    return CoverageView(
        percent=found.percent,
        covered=list(found.covered),
        missed=list(found.missed),
        rules=list(found.rules),
    )
