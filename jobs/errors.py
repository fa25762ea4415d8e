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
    "sandbox_start_failed",
    "sandbox_model_failed",
    "sandbox_training_failed",
    "sandbox_out_of_memory",
    "sandbox_deadline",
    "sandbox_crashed",
    "sandbox_protocol",
    "nothing_published",
    "internal",
]

FAILURES: dict[FailureCode, str] = {
    "worker_lost": "Every worker that took the job was lost before it published another round.",
    "sandbox_start_failed": "The training process could not be started.",
    "sandbox_model_failed": "The training process could not build the model.",
    "sandbox_training_failed": "The training process could not train the model.",
    "sandbox_out_of_memory": "The training process needed more memory than the operator allows.",
    "sandbox_deadline": "A round took longer than the operator allows.",
    "sandbox_crashed": "The training process ended by itself.",
    "sandbox_protocol": "The training process gave an answer outside its protocol or bound.",
    "nothing_published": "Every round was charged to attempts that failed; there is no model.",
    "internal": "The gateway failed; the operator's log says more.",
}

# Failures that may depend on raw data. They must not shorten what is paid: whether the job went
# on could tell something about a record, so the rest of the reservation is charged, not voided.
SAW_DATA: frozenset[FailureCode] = frozenset(
    {
        "worker_lost",
        "sandbox_training_failed",
        "sandbox_out_of_memory",
        "sandbox_deadline",
        "sandbox_crashed",
        "sandbox_protocol",
        "internal",
    }
)


class FencedOut(Exception):
    """The claim is no longer in force: another worker, the reaper or a person took the job.

    Whoever catches this stops at once and writes nothing; it is no failure of the job.
    """

    def __init__(self, job_id: str, fence: int) -> None:
        super().__init__(f"the claim {fence} on {job_id} is no longer in force")
        self.job_id = job_id
        self.fence = fence


class BrokerDown(Exception):
    """The broker did not take a message in time; the outbox keeps it."""


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
