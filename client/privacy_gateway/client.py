"""Logging in, and what an account can do from there.

A `Domain` is one gateway seen by one account. Sending a job never sends code, data, ε, δ or a
seed; what a researcher may get is decided at the other end.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from privacy_gateway import evaluation, notebook, tff, weights
from privacy_gateway.connection import Connection
from privacy_gateway.datasets import Dataset, Datasets
from privacy_gateway.errors import Refused
from privacy_gateway.initial import WeightsView
from privacy_gateway.jobs import Job, Quote
from privacy_gateway.owner import Owner
from privacy_gateway.schemas import InverseAnswer, JobRequest, JobView, SweepQuote, SweepView
from privacy_gateway.shares import Shares
from privacy_gateway.sweeps import Sweep
from privacy_gateway.tabular import Form
from privacy_gateway.views import BudgetView, DatasetView, PopulationView, UserView

DEFAULT_PORT = 8081

JobBody = Mapping[str, Any] | JobRequest


def login(
    email: str | None = None,
    password: str | None = None,
    *,
    url: str | None = None,
    port: int | None = None,
    token: str | None = None,
    transport: httpx.BaseTransport | None = None,
) -> Domain:
    """Log in to a gateway.

    Args:
        email: the account; needed unless there is a token.
        password: its password.
        url: address of the gateway; else `port` on this machine; else the environment's
            PRIVACY_GATEWAY_URL; else http://127.0.0.1:8081.
        port: a gateway on this machine.
        token: a token instead of a password; else the environment's PRIVACY_GATEWAY_TOKEN when no
            email is given.
        transport: replaces the network (tests, in-process gateways).

    Raises:
        Refused: `unauthenticated` for a wrong password or an old token, `unavailable` when the
            gateway cannot be reached.
        ValueError: neither password nor token.
    """
    connection = Connection(_address(url, port), transport=transport)
    if email is None:
        token = token or os.environ.get("PRIVACY_GATEWAY_TOKEN")
    if token is None:
        if email is None or password is None:
            raise ValueError("Expected email and password, or a token (PRIVACY_GATEWAY_TOKEN)")
        body = {"email": email, "password": password}
        token = str(connection.post("/v1/login", body, repeatable=True)["token"])
    connection.authenticate(token)
    return Domain(connection)


def _address(url: str | None, port: int | None) -> str:
    if url is not None and port is not None:
        raise ValueError("Expected url or port, not both")
    if port is not None:
        return f"http://127.0.0.1:{port}"
    return url or os.environ.get("PRIVACY_GATEWAY_URL") or f"http://127.0.0.1:{DEFAULT_PORT}"


class Domain:
    """One gateway as one account sees it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @cached_property
    def me(self) -> UserView:
        """The account that is logged in."""
        return UserView.model_validate(self.connection.get("/v1/me"))

    @property
    def owner(self) -> Owner:
        """What a data owner does: populations, data sets, policies."""
        return Owner(self.connection)

    @property
    def shares(self) -> Shares:
        """Blocks of people, shares of projects, second persons."""
        return Shares(self.connection)

    @property
    def datasets(self) -> Datasets:
        """The data sets this account can see, asked for anew each time."""
        views = [DatasetView.model_validate(a) for a in self.connection.pages("/v1/datasets")]
        return Datasets(views, self.connection)

    def dataset(self, dataset_id: str) -> Dataset:
        """One data set by id."""
        answer = self.connection.get(f"/v1/datasets/{dataset_id}")
        return Dataset(DatasetView.model_validate(answer), self.connection)

    @property
    def populations(self) -> list[PopulationView]:
        """The populations this account can see."""
        pages = self.connection.pages("/v1/populations")
        return [PopulationView.model_validate(answer) for answer in pages]

    def budget(self, population_id: str, *, at: str | None = None) -> BudgetView:
        """What of a population's budget is spent and reserved, now or `at` an RFC 3339 time."""
        answer = self.connection.get(f"/v1/populations/{population_id}/budget", at=at)
        return BudgetView.model_validate(answer)

    def quote(self, job: JobBody) -> Quote:
        """Price and verdict of a job, without any effect.

        Raises:
            Refused: `invalid_request` or `model_refused` when the job cannot be priced at all. A
                job that policy or budget would refuse is a quote with `refusals`, not an exception.
        """
        body = _body(job)
        answer = self.connection.post("/v1/quotes", {"job": body}, repeatable=True)
        return Quote.of(answer, self, body)

    def inverse(self, job: JobBody, solve_for: str) -> InverseAnswer:
        """Most rounds, least noise or largest cohort that would be admitted now.

        Args:
            job: the request; its own value of `solve_for` does not matter.
            solve_for: `rounds`, `noise_multiplier` or `clients_per_round`.
        """
        body = {"job": _body(job), "solve_for": solve_for}
        answer = self.connection.post("/v1/quotes/inverse", body, repeatable=True)
        return InverseAnswer.model_validate(answer)

    def submit(self, job: JobBody, *, idempotency_key: str | None = None, model: Any = None) -> Job:
        """Submit a job once, however often the network makes us send it.

        Args:
            job: the body of `POST /v1/jobs`.
            idempotency_key: name of this submission; the same key always means the same job.
                Made up when left out.
            model: the Keras model the architecture was taken from, to be filled by `Job.result`.

        Raises:
            Refused: with `.rules`, `.price`, `.left` and `.counter_offer` where they apply.
        """
        key = idempotency_key or str(uuid.uuid4())
        answer = self.connection.call(
            "POST", "/v1/jobs", json=_body(job), headers={"Idempotency-Key": key}, repeatable=True
        )
        return Job(self, JobView.model_validate(answer), model)

    def evaluate(
        self,
        subject: Any,
        dataset: Dataset | str | None = None,
        *,
        split: evaluation.Split = "public_test",
        timeout: float | None = None,
        progress: bool = True,
        **members: Any,
    ) -> dict[str, float]:
        """Measure a model: free on public test records, charged on people.

        Args:
            subject: a job or its id, whose released model is measured; or a Keras model, whose
                architecture and weights are uploaded, on public test records alone.
            dataset: a data set or its id; the job's own when left out.
            split: `public_test`; or `clients`, where `clients_per_round` and `noise_multiplier` are
                needed.
            timeout: most seconds to wait; the job outlives it.
            progress: show a bar.
            members: other members of the job body.

        Returns:
            `loss`, `accuracy` and so on; on clients `dp_loss`, `dp_loss_low`, `dp_loss_high` …

        Raises:
            Refused: by the gateway, or here naming what is missing.
            JobNotCompleted: the job ended otherwise, or waiting was stopped by Ctrl-C.
            TimeoutError: the job still goes on.
        """
        body = evaluation.job_of(self, subject, dataset, split=split, **members)
        return tff.finished(self.submit(body).wait(timeout, progress=progress)).metrics

    def upload_weights(self, source: Any) -> WeightsView:
        """Store weights; a job begins with them as `"initial": {"weights": view.id}`.

        Args:
            source: a Keras model, its arrays in the order of `model.get_weights()`, or the path of
                an NPZ or safetensors file.

        Raises:
            Refused: `unsupported`, `too_large` or `invalid_request` naming the tensor.
        """
        path = isinstance(source, str | Path)
        data = Path(source).read_bytes() if path else weights.dump(source)
        answer = self.connection.call(
            "POST",
            "/v1/weights",
            content=data,
            headers={"Content-Type": "application/octet-stream"},
            repeatable=True,
        )
        return WeightsView.model_validate(answer)

    def quote_sweep(self, jobs: Sequence[JobBody]) -> SweepQuote:
        """Price and verdict of several jobs together, each after those before it; no effect."""
        body = {"jobs": [_body(job) for job in jobs]}
        answer = self.connection.post("/v1/quotes/sweep", body, repeatable=True)
        return SweepQuote.model_validate(answer)

    def submit_sweep(self, jobs: Sequence[JobBody], *, idempotency_key: str | None = None) -> Sweep:
        """Submit several jobs that are admitted together, or not at all.

        Raises:
            Refused: of the first job that is refused; its fact `member` says which, from 0.
        """
        answer = self.connection.call(
            "POST",
            "/v1/sweeps",
            json={"jobs": [_body(job) for job in jobs]},
            headers={"Idempotency-Key": idempotency_key or str(uuid.uuid4())},
            repeatable=True,
        )
        return Sweep(self, SweepView.model_validate(answer))

    def sweep(self, sweep_id: str) -> Sweep:
        """A handle on a sweep that was submitted before."""
        answer = self.connection.get(f"/v1/sweeps/{sweep_id}")
        return Sweep(self, SweepView.model_validate(answer))

    def job(self, job_id: str, *, model: Any = None) -> Job:
        """A handle on a job that was submitted before."""
        answer = self.connection.get(f"/v1/jobs/{job_id}")
        return Job(self, JobView.model_validate(answer), model)

    def jobs(self, *, status: str | None = None, limit: int = 100) -> list[Job]:
        """The jobs this account can see, as the gateway orders them."""
        pages = self.connection.pages("/v1/jobs", status=status, limit=limit)
        return [Job(self, JobView.model_validate(answer)) for answer in pages]

    def ledger(self, *, limit: int | None = 100, **filters: Any) -> list[notebook.Document]:
        """Ledger entries; filters are the query parameters of `GET /v1/ledger`."""
        pages = self.connection.pages("/v1/ledger", limit=limit, **filters)
        return [notebook.Document(f"Entry {answer.get('seq')}", answer) for answer in pages]

    def export_ledger(self, target: str | Path, *, form: Form = "jsonl") -> Path:
        """Write the ledger for `privacy-gateway verify`: `jsonl`, `csv` or `parquet`."""
        path = Path(target)
        with (
            self.connection.stream("/v1/ledger/export", format=form) as blocks,
            path.open("wb") as file,
        ):
            for block in blocks:
                file.write(block)
        return path

    def statement(
        self, population: str, *, since: str | None = None, until: str | None = None
    ) -> dict[str, Any]:
        """A signed statement of a population for [since, until), RFC 3339 times."""
        asked = {"population": population, "from": since, "to": until}
        document: dict[str, Any] = self.connection.get("/v1/statements", **asked)
        return document

    def save_statement(
        self,
        target: str | Path,
        population: str,
        *,
        since: str | None = None,
        until: str | None = None,
        form: str = "html",
    ) -> Path:
        """Write a statement as a page (`html`) or as `json`."""
        path = Path(target)
        asked = {"population": population, "from": since, "to": until, "format": form}
        with self.connection.stream("/v1/statements", **asked) as blocks, path.open("wb") as file:
            for block in blocks:
                file.write(block)
        return path

    def close(self) -> None:
        """Give the sockets back; the token stays valid."""
        self.connection.close()

    def __enter__(self) -> Domain:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Domain({self.connection.url!r}, {self.me.email!r}, {self.me.role})"

    def _repr_html_(self) -> str:
        facts = {"gateway": self.connection.url, "account": self.me.email, "role": self.me.role}
        return notebook.html_facts("Domain", facts)


def _body(job: JobBody) -> dict[str, Any]:
    """A job as JSON values. A mapping is sent as it is: the gateway says what is wrong with it."""
    if isinstance(job, JobRequest):
        return job.model_dump(mode="json")
    if not isinstance(job, Mapping):
        raise Refused("invalid_request", "a job is a mapping or a JobRequest")
    return dict(job)
