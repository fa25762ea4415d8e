"""The async twin: the same calls, awaitable, for servers and notebooks with an event loop.

Each call runs the synchronous client in a worker thread, so there is one code path for retries,
refusals and parsing. Cancelling an await stops the waiting, never a job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privacy_gateway import client, evaluation, tff
from privacy_gateway.client import JobBody
from privacy_gateway.datasets import Datasets
from privacy_gateway.initial import WeightsView
from privacy_gateway.jobs import FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS, Job, Quote, ResultForm
from privacy_gateway.notebook import Document
from privacy_gateway.schemas import InverseAnswer


async def login(email: str | None = None, password: str | None = None, **where: Any) -> AsyncDomain:
    """As `privacy_gateway.login`."""
    return AsyncDomain(await asyncio.to_thread(client.login, email, password, **where))


class AsyncDomain:
    """As `privacy_gateway.Domain`; `sync` is the domain behind it."""

    def __init__(self, sync: client.Domain) -> None:
        self.sync = sync

    async def datasets(self) -> Datasets:
        """The data sets this account can see."""
        return await asyncio.to_thread(lambda: self.sync.datasets)

    async def quote(self, job: JobBody) -> Quote:
        """Price and verdict, without any effect."""
        return await asyncio.to_thread(self.sync.quote, job)

    async def inverse(self, job: JobBody, solve_for: str) -> InverseAnswer:
        """The largest answer that would be admitted."""
        return await asyncio.to_thread(self.sync.inverse, job, solve_for)

    async def submit(self, job: JobBody, **options: Any) -> AsyncJob:
        """Submit once, with safe retries."""
        return AsyncJob(await asyncio.to_thread(lambda: self.sync.submit(job, **options)))

    async def job(self, job_id: str) -> AsyncJob:
        """A handle on an earlier job."""
        return AsyncJob(await asyncio.to_thread(self.sync.job, job_id))

    async def jobs(self, **filters: Any) -> list[AsyncJob]:
        """The jobs this account can see."""
        found = await asyncio.to_thread(lambda: self.sync.jobs(**filters))
        return [AsyncJob(job) for job in found]

    async def evaluate(
        self, subject: Any, *more: Any, timeout: float | None = None, **members: Any
    ) -> dict[str, float]:
        """Measure a model, as `Domain.evaluate`; waiting does not hold a thread."""
        sync = subject.sync if isinstance(subject, AsyncJob) else subject
        body = await asyncio.to_thread(lambda: evaluation.job_of(self.sync, sync, *more, **members))
        job = await (await self.submit(body)).wait(timeout)
        return tff.finished(job.sync).metrics

    async def upload_weights(self, source: Any) -> WeightsView:
        """Store weights to begin a job with."""
        return await asyncio.to_thread(self.sync.upload_weights, source)

    async def close(self) -> None:
        """Give the sockets back."""
        await asyncio.to_thread(self.sync.close)

    async def __aenter__(self) -> AsyncDomain:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Async{self.sync!r}"


class AsyncJob:
    """As `privacy_gateway.Job`; `sync` is the job behind it."""

    def __init__(self, sync: Job) -> None:
        self.sync = sync

    @property
    def id(self) -> str:
        """Identifier."""
        return self.sync.id

    @property
    def status(self) -> str:
        """State when last looked at."""
        return self.sync.status

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metrics on public test data so far."""
        return self.sync.metrics

    async def wait(self, timeout: float | None = None) -> AsyncJob:
        """Wait until the job has ended; `TimeoutError` leaves it running."""
        async with asyncio.timeout(timeout):
            between = FIRST_POLL_SECONDS
            while not (await asyncio.to_thread(self.sync.refresh)).ended:
                await asyncio.sleep(between)
                between = min(between * 1.3, LONGEST_POLL_SECONDS)
        return self

    async def cancel(self) -> AsyncJob:
        """Stop before the next charge."""
        await asyncio.to_thread(self.sync.cancel)
        return self

    async def result(self) -> Any:
        """The released weights."""
        return await asyncio.to_thread(self.sync.result)

    async def to_keras(self) -> Any:
        """A Keras model with the released weights."""
        return await asyncio.to_thread(self.sync.to_keras)

    async def download(self, target: str | Path, *, form: ResultForm = "npz") -> Path:
        """The released weights as a file."""
        return await asyncio.to_thread(lambda: self.sync.download(target, form=form))

    async def receipt(self) -> Document:
        """What was guaranteed."""
        return await asyncio.to_thread(self.sync.receipt)

    def __repr__(self) -> str:
        return repr(self.sync)
