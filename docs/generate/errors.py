"""The page of error codes: refusals with status and exit code, failures of jobs, exits."""

from __future__ import annotations

from docs.generate.markdown import code, document, table
from gateway.problems import MEDIA_TYPE, STATUS
from jobs.errors import FAILURES, SAW_DATA
from jobs.judgement import PRECEDENCE
from privacy_gateway.cli import output
from privacy_gateway.errors import CODES

INTRODUCTION = f"""
# Error codes

Every refusal has one shape wherever it is met: over HTTP a problem document (RFC 9457,
`{MEDIA_TYPE}`) with `type`, `title`, `status`, `detail`, `code`, `errors`; in Python a
`privacy_gateway.Refused` with `.code`, `.detail`, `.errors`, `.facts`; on the command line a text
on standard error and an exit code. A refusal changes nothing, except that a refused submit is
recorded as a `deny` entry and a decision.

`errors` is a list of `field`, `message` and, where they help, `value` and `limit`. A refused
submit also carries `rules`, `price`, `left`, `counter_offer` and `decision`.
"""

FAILED = """
## Failures of a job

A job that ends as `failed` has one of these in `failure`. It is all a researcher is told: the text
of an exception could carry a record. Where the process had seen data, the rest of the reservation
is charged, so that the size of the debit tells nothing.
"""

EXITS = """
## Exit codes of the command line
"""


def page() -> str:
    """The page."""
    refusals = table(
        ["code", "status", "exit", "meaning", "what to do next"],
        [
            (
                code(name),
                STATUS[name],
                output.EXIT_OF.get(name, 3),
                meaning,
                output.NEXT.get(name, ""),
            )
            for name, meaning in CODES.items()
        ],
    )
    order = ", ".join(f"`{name}`" for name in PRECEDENCE)
    several = (
        "Where several rules refuse a job, all are listed; the code is the first of these that "
        f"fired: {order}."
    )
    failures = table(
        ["failure", "meaning", "rest is charged"],
        [
            (code(name), meaning, "yes" if name in SAW_DATA else "no")
            for name, meaning in FAILURES.items()
        ],
    )
    exits = table(["exit code", "meaning"], output.EXITS.items())
    return document(INTRODUCTION, refusals, several, FAILED, failures, EXITS, exits)
