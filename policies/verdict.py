"""Reads an engine's answer as a decision, strictly, and as a denial whenever in doubt.

This is the narrow gate of the whole policy part: an answer is `allow` only if it is an object with
`allow` true, an empty `deny`, and nothing unknown anywhere. `decode` must never repair, guess or
convert: `"true"`, 1, a missing member, an unknown obligation are all no decision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from policies.errors import Fault, Undecided
from privacy_gateway import canonical
from privacy_gateway.schemas import Role

Outcome = Literal["allow", "needs_approval", "deny"]
Limit = str | int | float | bool | None | tuple[str | int | float | bool, ...]

OUTPUTS = frozenset({"weights", "dp_metrics", "receipt"})
ISOLATION = ("per_job", "per_client_group")
"""Known isolations, weakest first."""
APPROVER_ROLES: tuple[Role, ...] = ("owner", "auditor", "admin")
"""Roles that can decide about somebody's job; the door admits these and no others."""
UNDEFINED = "<undefined>"
"""What the embedded engine prints for an undefined value; no member of an answer may be it."""

_MOST = {"deny": 200, "approvals": 16, "obligations": 16}
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MEMBERS = frozenset({"allow", "deny", "approvals", "obligations"})
_REQUIRED = frozenset({"allow", "deny"})


@dataclass(frozen=True, slots=True)
class Denial:
    """One rule of the owner that fired: which field, why, and the limit it met."""

    code: str
    field: str
    message: str
    limit: Limit = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON value."""
        limit = list(self.limit) if isinstance(self.limit, tuple) else self.limit
        return {
            "code": self.code,
            "field": self.field,
            "message": self.message,
            "limit": limit,
        }


@dataclass(frozen=True, slots=True, order=True)
class Approval:
    """`count` people of `role` must agree `within_hours`, or the job is denied."""

    role: str
    count: int
    within_hours: int

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {"role": self.role, "count": self.count, "within_hours": self.within_hours}


@dataclass(frozen=True, slots=True)
class Obligations:
    """What the gateway must do if the job runs; None where the owner demands nothing.

    Several obligations of one type are combined to the strictest: `outputs` intersect,
    `max_parallel_jobs` takes the least, `release_delay_hours` the most, `isolation` the strongest.
    """

    outputs: frozenset[str] | None = None
    max_parallel_jobs: int | None = None
    release_delay_hours: int | None = None
    isolation: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON value; only what is demanded."""
        members = {
            "outputs": None if self.outputs is None else sorted(self.outputs),
            "max_parallel_jobs": self.max_parallel_jobs,
            "release_delay_hours": self.release_delay_hours,
            "isolation": self.isolation,
        }
        return {name: value for name, value in members.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision of an owner's policy: one of three outcomes, with all its reasons."""

    outcome: Outcome
    denials: tuple[Denial, ...] = ()
    approvals: tuple[Approval, ...] = ()
    obligations: Obligations = field(default_factory=Obligations)

    @property
    def allowed(self) -> bool:
        """True only for a plain allow."""
        return self.outcome == "allow"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON value, equal for equal decisions whatever the engine."""
        return {
            "outcome": self.outcome,
            "denials": [denial.as_dict() for denial in self.denials],
            "approvals": [approval.as_dict() for approval in self.approvals],
            "obligations": self.obligations.as_dict(),
        }

    def canonical(self) -> bytes:
        """Canonical JSON of `as_dict`."""
        # Verdicts without a limit are told apart by `==`; True and 1 are the same limit to it.
        return _written(self) if self.denials else _plain_verdict(self)


def _written(verdict: Verdict) -> bytes:
    return canonical.dumps(verdict.as_dict(), floats=True)


_plain_verdict = lru_cache(maxsize=1024)(_written)


def denied(code: str, message: str, *, at: str = "policy") -> Verdict:
    """A denial for one reason that no rule of the owner gave."""
    return Verdict("deny", (Denial(code, at, message),))


def decode(raw: Any) -> Verdict:
    """Read the parsed JSON value of `data.<package>.decision`.

    Raises:
        Undecided: for everything that is not exactly a decision (`undefined`, `malformed`,
            `unknown_obligation`); the caller must deny.
    """
    if raw is None or raw == UNDEFINED:
        raise Undecided(Fault.UNDEFINED, "the policy defines no decision for this input")
    _refuse_undefined(raw)
    answer = _object(raw, "decision", _MEMBERS, _REQUIRED)
    allow = answer["allow"]
    if not isinstance(allow, bool):
        raise _malformed("decision.allow is not a boolean")
    denials = tuple(sorted(set(_members(answer, "deny", _denial)), key=_denial_order))
    approvals = tuple(sorted(set(_members(answer, "approvals", _approval))))
    obligations = _combine(_members(answer, "obligations", _obligation))
    if denials or not allow:
        return Verdict("deny", denials or (_UNNAMED,), (), obligations)
    return Verdict("needs_approval" if approvals else "allow", (), approvals, obligations)


_UNNAMED = Denial("not_allowed", "policy", "The policy does not allow this and names no rule.")


def _malformed(detail: str) -> Undecided:
    return Undecided(Fault.MALFORMED, detail)


def _refuse_undefined(value: Any) -> None:
    """An undefined value printed inside an answer must not pass for a text."""
    if value == UNDEFINED:
        raise Undecided(Fault.UNDEFINED, "a member of the decision is undefined")
    if isinstance(value, Mapping):
        for member in value.values():
            _refuse_undefined(member)
    elif isinstance(value, list):
        for member in value:
            _refuse_undefined(member)


def _object(
    value: Any, path: str, known: frozenset[str], required: frozenset[str]
) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _malformed(f"{path} is not an object")
    unknown = sorted(str(name) for name in value.keys() - known)
    if unknown:
        raise _malformed(f"{path} has the unknown member {unknown[0][:64]}")
    missing = sorted(required - value.keys())
    if missing:
        raise _malformed(f"{path} lacks {missing[0]}")
    return value


def _members(answer: Mapping[str, Any], name: str, read: Callable[[Any, str], Any]) -> list[Any]:
    """A Rego set arrives as a JSON array; an absent one (allowed for two members) is empty."""
    items = answer.get(name, [])
    if not isinstance(items, list):
        raise _malformed(f"decision.{name} is not a set")
    if len(items) > _MOST[name]:
        raise _malformed(f"decision.{name} has more than {_MOST[name]} members")
    return [read(item, f"decision.{name}") for item in items]


_DENIAL = frozenset({"code", "field", "message", "limit"})


def _denial(value: Any, path: str) -> Denial:
    item = _object(value, path, _DENIAL, _DENIAL)
    code = _text(item["code"], f"{path}.code", 64)
    if not _CODE.fullmatch(code):
        raise _malformed(f"{path}.code is not a lower-case identifier")
    return Denial(
        code,
        _text(item["field"], f"{path}.field", 200),
        _text(item["message"], f"{path}.message", 1000),
        _limit(item["limit"], f"{path}.limit"),
    )


def _limit(value: Any, path: str) -> Limit:
    if isinstance(value, list):
        if len(value) > 100 or not all(_is_scalar(member) for member in value):
            raise _malformed(f"{path} is not a short list of scalars")
        return tuple(_plain_number(member) for member in value)
    if value is not None and not _is_scalar(value):
        raise _malformed(f"{path} is neither a scalar nor a list of scalars")
    return _plain_number(value)  # type: ignore[no-any-return]


def _plain_number(value: Any) -> Any:
    """One engine prints 2.0 as 2, the other as 2.0: the same limit must compare equal."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_scalar(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= 1000
    return isinstance(value, bool | int | float)


_APPROVAL = frozenset({"role", "count", "within_hours"})


def _approval(value: Any, path: str) -> Approval:
    item = _object(value, path, _APPROVAL, _APPROVAL)
    role = _text(item["role"], f"{path}.role", 64)
    if role not in APPROVER_ROLES:
        raise _malformed(f"{path}.role is none of {', '.join(sorted(APPROVER_ROLES))}")
    return Approval(
        role,
        _whole(item["count"], f"{path}.count", 1, 100),
        _whole(item["within_hours"], f"{path}.within_hours", 1, 24 * 366),
    )


_OBLIGATION = frozenset({"type", "value"})


def _obligation(value: Any, path: str) -> tuple[str, Any]:
    item = _object(value, path, _OBLIGATION, _OBLIGATION)
    kind = item["type"]
    if not isinstance(kind, str) or kind not in _READERS:
        raise Undecided(Fault.UNKNOWN_OBLIGATION, f"{path} has an unknown type: {str(kind)[:64]}")
    return kind, _READERS[kind](item["value"], f"{path}.{kind}")


def _outputs(value: Any, path: str) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(member, str) for member in value):
        raise _malformed(f"{path} is not a set of names")
    unknown = sorted(set(value) - OUTPUTS)
    if unknown:
        raise Undecided(Fault.UNKNOWN_OBLIGATION, f"{path} names the unknown {unknown[0][:64]}")
    return frozenset(value)


def _isolation(value: Any, path: str) -> str:
    if not isinstance(value, str) or value not in ISOLATION:
        raise Undecided(Fault.UNKNOWN_OBLIGATION, f"{path} is unknown: {str(value)[:64]}")
    return value


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "outputs": _outputs,
    "max_parallel_jobs": lambda value, path: _whole(value, path, 1, 10_000),
    "release_delay_hours": lambda value, path: _whole(value, path, 0, 24 * 366),
    "isolation": _isolation,
}


def _combine(demands: list[tuple[str, Any]]) -> Obligations:
    """The strictest of each type."""
    by_type: dict[str, list[Any]] = {}
    for kind, value in demands:
        by_type.setdefault(kind, []).append(value)
    outputs = by_type.get("outputs")
    return Obligations(
        outputs=frozenset.intersection(*outputs) if outputs else None,
        max_parallel_jobs=min(by_type.get("max_parallel_jobs", []), default=None),
        release_delay_hours=max(by_type.get("release_delay_hours", []), default=None),
        isolation=max(by_type.get("isolation", []), key=ISOLATION.index, default=None),
    )


def _text(value: Any, path: str, longest: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise _malformed(f"{path} is not a text of 1 to {longest} characters")
    return value


def _whole(value: Any, path: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _malformed(f"{path} is not a whole number from {least} to {most}")
    return value


def _denial_order(denial: Denial) -> tuple[str, str, str, bytes]:
    limit = denial.as_dict()["limit"]
    return denial.code, denial.field, denial.message, canonical.dumps(limit, floats=True)
