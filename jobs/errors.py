"""What can go wrong with a job, as words a researcher may read and signals a worker must obey.

A failure code is all that ever leaves about a failure: an exception's text, a timing or a count
could carry a record. Details go to the owner's log only. The texts below must never be built
from anything that was computed on data.
"""

from __future__ import annotations

from typing import Literal, get_args

from privacy_gateway.errors import Refused

FailureCode = Literal[
    "worker_lost",
    "sandbox_start",
    "sandbox_died",
    "sandbox_deadline",
    "sandbox_memory",
    "sandbox_protocol",
    "policy_unavailable",
    "data_unavailable",
    "internal",
]

FAILURES: dict[FailureCode, str] = {
    "worker_lost": "Every worker that took the job was lost before it published another round.",
    "sandbox_start": "The training process could not be started.",
    "sandbox_died": "The training process ended by itself.",
    "sandbox_deadline": "A round took longer than the operator allows.",
    "sandbox_memory": "The training process needed more memory than the operator allows.",
    "sandbox_protocol": "The training process gave an answer outside its protocol or bound.",
    "policy_unavailable": "The owner's policy could not be asked again, so nothing more was charged.",
    "data_unavailable": "The data set's store could not be opened.",
    "internal": "The gateway failed; the operator's log says more.",
}

# Failures of a process that has seen raw data. They must not shorten what is paid: whether the
# job went on could depend on a record, so the rest of the reservation is charged, not voided.
SAW_DATA: frozenset[FailureCode] = frozenset(
    {"worker_lost", "sandbox_died", "sandbox_deadline", "sandbox_memory", "sandbox_protocol"}
)


class FencedOut(Exception):
    """The claim is no longer in force: another worker, the reaper or a person took the job.

    Whoever catches this stops at once and writes nothing; it is no failure of the job.
    """

    def __init__(self, job_id: str, fence: int) -> None:
        super().__init__(f"the claim {fence} on {job_id} is no longer in force")
        self.job_id = job_id
        self.fence = fence


def failure_code(text: str) -> FailureCode:
    """`text` if it is a code of the enumeration, else `internal`: nothing else may leave."""
    for code in get_args(FailureCode):
        if code == text:
            return code  # type: ignore[no-any-return]
    return "internal"


def no_job(job_id: str) -> Refused:
    """One answer for a job that is not there and for one that is somebody else's."""
    return Refused("not_found", f"there is no job {job_id}")


def wrong_state(job_id: str, status: str, wanted: str) -> Refused:
    """`conflict`: the job cannot take that step from where it is."""
    return Refused("conflict", f"{job_id} is {status} and cannot become {wanted}", status=status)
