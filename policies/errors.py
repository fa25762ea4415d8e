"""Why a policy gave no readable decision, and which public code that becomes.

Every fault ends as a recorded denial. This module must never offer a fault that lets a job pass.
"""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """What went wrong between the question and a verdict; recorded with the decision."""

    NO_POLICY = "no_policy"
    UNREACHABLE = "unreachable"
    BUSY = "busy"
    TIMEOUT = "timeout"
    STALE_REVISION = "stale_revision"
    CRASHED = "crashed"
    EVALUATION_FAILED = "evaluation_failed"
    UNDEFINED = "undefined"
    MALFORMED = "malformed"
    UNKNOWN_OBLIGATION = "unknown_obligation"
    DISAGREEMENT = "disagreement"
    INTERNAL = "internal"


_NO_ANSWER = frozenset(
    {Fault.NO_POLICY, Fault.UNREACHABLE, Fault.BUSY, Fault.TIMEOUT, Fault.STALE_REVISION}
)


def code_of(fault: Fault) -> str:
    """The public refusal code: `policy_unavailable` without an answer, else `policy_error`."""
    return "policy_unavailable" if fault in _NO_ANSWER else "policy_error"


class EngineFailed(Exception):
    """An engine could not do what it was asked; `detail` is for the owner, never the researcher."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault
        self.detail = detail


class Undecided(Exception):
    """An answer arrived that is no decision; `decode` raises it, `ask` turns it into a denial."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault
        self.detail = detail
