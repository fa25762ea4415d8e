"""Quotes and jobs in a researcher's hand.

A job lives at the gateway; the object here is a handle that can be thrown away and made again from
its id. Nothing here may stop a job as a side effect: Ctrl-C and timeouts only stop the waiting.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PrivateAttr

from privacy_gateway import notebook, weights
from privacy_gateway.errors import Refused, invalid
from privacy_gateway.modelspec import ModelSpec
from privacy_gateway.schemas import JobView
from privacy_gateway.schemas import Quote as QuoteView

if TYPE_CHECKING:
    from privacy_gateway.client import Domain

ResultForm = Literal["npz", "safetensors", "keras"]
FINAL = frozenset(
    {"denied", "completed", "failed", "cancelled", "expired", "stopped_by_policy", "frozen"}
)
FIRST_POLL_SECONDS = 0.2
LONGEST_POLL_SECONDS = 1.0


class JobNotCompleted(RuntimeError):
    """A job ended, or went on, without the result that was asked for; `job` tells more."""

    def __init__(self, job: Job) -> None:
        reason = f" ({job.view.failure})" if job.view.failure else ""
        super().__init__(
            f"{job.id} is {job.status}{reason} after {job.view.rounds_published} of "
            f"{job.view.rounds} rounds; see job.receipt() for what was charged"
        )
        self.job = job


class Quote(QuoteView):
    """Price and verdict of a request. Asking costs nothing and changes nothing."""

    _domain: Domain = PrivateAttr()
    _job: dict[str, Any] = PrivateAttr()

    @classmethod
    def of(cls, answer: Any, domain: Domain, job: Mapping[str, Any]) -> Quote:
        """The gateway's answer about `job`."""
        quote = cls.model_validate(answer)
        return quote._bound(domain, job)  # noqa: SLF001 - its own class

    def _bound(self, domain: Domain, job: Mapping[str, Any]) -> Quote:
        self._domain, self._job = domain, dict(job)
        return self

    @property
    def passes(self) -> bool:
        """Whether a submit now would be accepted (perhaps to wait for approval)."""
        return self.fits and self.verdict != "deny" and not self.refusals

    def adopt(self) -> dict[str, Any]:
        """The job that would pass: the request itself, or else the counter-offer.

        Raises:
            Refused: `conflict` when nothing near the request passes.
        """
        if self.passes:
            return dict(self._job)
        if self.counter_offer is None:
            raise Refused("conflict", "nothing near this request passes; see quote.refusals")
        return dict(self.counter_offer.job)

    def submit(self) -> Job:
        """Submit what `adopt` gives."""
        return self._domain.submit(self.adopt())

    def facts(self) -> dict[str, Any]:
        """What a person wants to know, in order."""
        facts: dict[str, Any] = {
            "verdict": self.verdict,
            "ε of this job": self.epsilon,
            "δ": self.delta,
            "ε spent before": self.budget_before,
            "ε spent after": self.budget_after,
            "ε of the budget": self.budget_epsilon,
            "more jobs like this": self.how_many_more,
        }
        if self.epsilon_pld is not None:
            facts["ε of this job by PLD"] = self.epsilon_pld
        for rule in self.refusals:
            # Two rules may have one code: a floor of the noise and one of the cohort.
            said = [facts.get(f"refused: {rule.code}"), f"{rule.field} {rule.message}".strip()]
            facts[f"refused: {rule.code}"] = "; ".join(filter(None, said))
        if self.counter_offer is not None:
            facts["counter-offer"] = dict(self.counter_offer.changed)
            facts["ε of the counter-offer"] = self.counter_offer.epsilon
            for place, other in enumerate(self.counter_offer.directions[1:], start=2):
                facts[f"counter-offer {place}"] = dict(other.changed)
        return facts

    def __repr__(self) -> str:
        return notebook.plain_facts("Quote", self.facts())

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return notebook.html_facts("Quote", self.facts())


class Job:
    """A submitted job.

    `model` is the Keras model whose architecture was sent, if the caller still has it; `result`
    then fills it instead of giving bare arrays.
    """

    def __init__(self, domain: Domain, view: JobView, model: Any = None) -> None:
        self._domain = domain
        self.view = view
        self.model = model

    @property
    def id(self) -> str:
        """Identifier; `domain.job(id)` makes this handle again."""
        return self.view.id

    @property
    def status(self) -> str:
        """State when last looked at; `refresh` looks again."""
        return self.view.status

    @property
    def ended(self) -> bool:
        """Whether the job will never move again."""
        return self.status in FINAL

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics on public test data so far."""
        return dict(self.view.metrics or {})

    def refresh(self) -> Job:
        """Ask the gateway for the present state."""
        answer = self._domain.connection.get(f"/v1/jobs/{self.id}")
        self.view = JobView.model_validate(answer)
        return self

    def wait(
        self,
        timeout: float | None = None,
        *,
        progress: bool = True,
        pause: Callable[[float], None] = time.sleep,
    ) -> Job:
        """Wait until the job has ended.

        Ctrl-C stops the waiting, not the job, and says how to come back.

        Args:
            timeout: most seconds to wait; None for ever.
            progress: show charged rounds as a bar on standard error.
            pause: sleeps between looks; injected by tests.

        Raises:
            TimeoutError: the job still goes on; its text says how to re-attach.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        between = FIRST_POLL_SECONDS
        with _Progress(self.view, shown=progress) as bar:
            try:
                while not self.refresh().ended:
                    bar.show(self.view)
                    if deadline is not None and time.monotonic() + between > deadline:
                        raise TimeoutError(f"{self.id} is {self.status}. {self._re_attach()}")
                    pause(between)
                    between = min(between * 1.3, LONGEST_POLL_SECONDS)
                bar.show(self.view)
            except KeyboardInterrupt:
                bar.close()
                print(f"\nDetached. {self._re_attach()}", file=sys.stderr)
        return self

    def cancel(self) -> Job:
        """Ask the gateway to stop; it does so before the next charge, and voids the rest."""
        self._domain.connection.post(f"/v1/jobs/{self.id}/cancel", repeatable=True)
        return self.refresh()

    def approve(self, note: str = "") -> Job:
        """Agree to a job that the policy lets run only with people's consent.

        Raises:
            Refused: `forbidden` for one's own job or where the policy asks for another role;
                `conflict` for a job that does not wait, or a second word.
        """
        return self._decide("approve", note)

    def reject(self, note: str = "") -> Job:
        """Deny a job that waits for consent; its reservation goes back. Raises as `approve`."""
        return self._decide("reject", note)

    def result(self) -> Any:
        """The released weights: the model filled with them where it is known, else arrays by name.

        Downloads are free for ever.

        Raises:
            Refused: `not_ready` while there is nothing, `not_found`.
            ImportError: NumPy is not installed (`pip install privacy-gateway[weights]`).
        """
        arrays = weights.load(self._read())
        if self.model is None:
            return arrays
        return weights.fill(self.model, arrays)

    def to_keras(self) -> Any:
        """A Keras model of the job's own architecture with the released weights, built here.

        Raises:
            Refused: as `result`.
            ImportError: Keras or NumPy is not installed.
        """
        from privacy_gateway.keras_converter import keras_of_spec

        spec = ModelSpec.model_validate(self.view.request["model"]["architecture"])
        return keras_of_spec(spec, list(weights.load(self._read()).values()))

    def download(self, target: str | Path, *, form: ResultForm = "npz") -> Path:
        """Write the released model to a file.

        `npz` (without pickles) and `safetensors` are the gateway's bytes as they are; `keras` is
        made on this machine by `to_keras`, and `target` must end in `.keras` then.

        Raises:
            Refused: `invalid_request` on `target` for another ending; else as `result`.
        """
        path = Path(target)
        if form == "keras" and path.suffix != ".keras":
            raise invalid("target", "must end in .keras, or Keras does not know the format")
        if form == "keras":
            self.to_keras().save(path)
        else:
            path.write_bytes(self._read(form))
        return path

    def receipt(self) -> notebook.Document:
        """What was guaranteed, to whom it can be shown.

        Raises:
            Refused: `not_ready` before the job has ended.
        """
        answer = self._domain.connection.get(f"/v1/jobs/{self.id}/receipt")
        return notebook.Document(f"Receipt of {self.id}", answer)

    def facts(self) -> dict[str, Any]:
        """What a person wants to know, in order."""
        view = self.view
        return {
            "status": view.status,
            **_waiting_for(view),
            **_said(view),
            "rounds": f"{view.rounds_published} published, {view.rounds_charged} charged, "
            f"{view.rounds} asked",
            "ε if all rounds run": view.epsilon,
            "δ": view.delta,
            "metrics": view.metrics,
            "failure": view.failure,
            "data set": view.dataset,
            "purpose": view.purpose,
        }

    def __repr__(self) -> str:
        return notebook.plain_facts(f"Job {self.id}", self.facts())

    def _repr_html_(self) -> str:
        return notebook.html_facts(f"Job {self.id}", self.facts())

    def _decide(self, word: str, note: str) -> Job:
        body = {"decision": word, "note": note}
        answer = self._domain.connection.post(f"/v1/jobs/{self.id}/approvals", body)
        self.view = JobView.model_validate(answer)
        return self

    def _read(self, form: ResultForm = "npz") -> bytes:
        """The result's bytes, size-capped."""
        path = f"/v1/jobs/{self.id}/result"
        with self._domain.connection.stream(path, format=form) as blocks:
            return weights.collect(blocks)

    def _re_attach(self) -> str:
        return (
            f"The job goes on at the gateway. Re-attach with domain.job({self.id!r}).wait() "
            f"or `privacy-gateway jobs watch {self.id}`."
        )


def _waiting_for(view: JobView) -> dict[str, str]:
    """Whose approval is missing, and until when it can be given."""
    if not view.waiting_for:
        return {}
    missing = ", ".join(f"{one.missing} {one.role}" for one in view.waiting_for)
    return {"waits for": f"{missing} to approve until {view.approve_before}"}


def _said(view: JobView) -> dict[str, str]:
    """What people answered whose approval the job needed."""
    words = [f"{one.role}: {one.decision}, {one.note}".rstrip(", ") for one in view.decided]
    return {"said of it": "; ".join(words)} if words else {}


class _Progress:
    """A bar of charged rounds on standard error; nothing when not wanted."""

    def __init__(self, view: JobView, *, shown: bool) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(
            total=view.rounds, disable=not shown, unit="round", desc=view.id, leave=False
        )

    def show(self, view: JobView) -> None:
        """Move to the view's rounds."""
        self._bar.update(view.rounds_charged - self._bar.n)
        self._bar.set_postfix_str(f"{view.status} {notebook.text_of(view.metrics or {})}".strip())

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
