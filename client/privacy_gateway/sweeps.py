"""Several runs in a researcher's hand: admitted together or not at all.

Like a job, a sweep lives at the gateway; this handle can be thrown away and made again from its id.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from privacy_gateway import notebook
from privacy_gateway.jobs import Job
from privacy_gateway.schemas import SweepView

if TYPE_CHECKING:
    from privacy_gateway.client import Domain


class Sweep:
    """A submitted sweep; iterates over its jobs in the order of submission."""

    def __init__(self, domain: Domain, view: SweepView) -> None:
        self._domain = domain
        self.view = view

    @property
    def id(self) -> str:
        """Identifier; `domain.sweep(id)` makes this handle again."""
        return self.view.id

    @property
    def jobs(self) -> list[Job]:
        """The members, as they were when last looked at."""
        return [Job(self._domain, view) for view in self.view.jobs]

    @property
    def ended(self) -> bool:
        """Whether every member has ended."""
        return self.view.status == "over"

    def refresh(self) -> Sweep:
        """Ask the gateway for the present state."""
        answer = self._domain.connection.get(f"/v1/sweeps/{self.id}")
        self.view = SweepView.model_validate(answer)
        return self

    def wait(
        self,
        timeout: float | None = None,
        *,
        progress: bool = True,
        pause: Callable[[float], None] = time.sleep,
    ) -> Sweep:
        """Wait until every job has ended, one after the other.

        Args:
            timeout: most seconds to wait for all of them together; None for ever.
            progress: show each job's rounds as a bar on standard error.
            pause: sleeps between looks; injected by tests.

        Raises:
            TimeoutError: some still go on; `domain.sweep(id)` re-attaches.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for job in self.jobs:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            job.wait(left, progress=progress, pause=pause)
        return self.refresh()

    def cancel(self) -> Sweep:
        """End every job that still goes on; what is not charged yet goes back."""
        answer = self._domain.connection.post(f"/v1/sweeps/{self.id}/cancel", repeatable=True)
        self.view = SweepView.model_validate(answer)
        return self

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs)

    def __len__(self) -> int:
        return len(self.view.jobs)

    def facts(self) -> dict[str, Any]:
        """What a person wants to know, in order."""
        return {
            "status": self.view.status,
            "jobs": len(self),
            "ended": self.view.ended,
            "rounds charged": f"{self.view.rounds_charged} of {self.view.rounds}",
        } | {job.id: f"{job.status}, ε {job.view.epsilon:.4g}" for job in self}

    def __repr__(self) -> str:
        return notebook.plain_facts(f"Sweep {self.id}", self.facts())

    def _repr_html_(self) -> str:
        return notebook.html_facts(f"Sweep {self.id}", self.facts())
