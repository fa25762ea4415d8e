"""The trusted half of a job: claim, ask, charge, commit, draw, hand over, add noise, publish.

The order is the guarantee: a block of rounds is charged and **committed** before the client store
is opened or a cohort drawn for it, and nothing that was computed on data leaves this module before
noise is on it. The sandbox gets the cohort and the model and gives an integer sum; it never sees a
key, a budget or a name. The coordinator holds the database session and never imports TensorFlow.

Every write is checked against the claim's fence and lease. Whoever lost the claim stops at once and
writes nothing. A lost sandbox sends the job back to the queue, where its unpublished rounds are
charged again; too many losses in a row end it. Of a failure only a code leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from sqlalchemy.orm import Session

from accounting.plan import TrainingPlan
from jobs import blocks, catalogue, events, initial, recheck, releases, rounds, settlement
from jobs.blocks import PolicyDown
from jobs.errors import FencedOut, failure_code
from jobs.proposal import plan_for
from jobs.reaper import DATABASE_DOWN
from jobs.rounds import Block, Claim
from jobs.services import Services
from jobs.settings import Settings
from jobs.tables import Job
from jobs.tables_datasets import Dataset
from kit import log, tensors
from privacy_gateway import canonical, modelspec
from privacy_gateway.schemas import JobRequest
from worker.aggregate import AggregateInvalid, ServerOptimizer, ServerState, Weights
from worker.estimate import evaluate
from worker.heartbeat import Heartbeat
from worker.launcher import SandboxFailed
from worker.noise import NoiseSource
from worker.orders import training_task
from worker.pace import Pace, pace_of
from worker.publication import Publication
from worker.steps import Stepper, Train
from worker.task import TrainingTask
from worker.trainers import OpenTrainer, Trainers

_log = log.get("worker")

Ending = Literal["ended", "returned", "not_taken", "fenced_out"]


@dataclass(frozen=True, slots=True)
class Tools:
    """What a test replaces.

    Attributes:
        open_trainer: starts a sandbox of one job, see `worker.trainers.Trainers`.
        noise: makes the stream of one round; a test gives a keyed one.
        stopping: whether this process was told to end.
        stop_seconds: how long a block may go on after `stopping` before it is abandoned.
        pace: says how long blocks are, of a job of so many rounds.
    """

    open_trainer: OpenTrainer
    noise: Callable[[], NoiseSource] = NoiseSource
    stopping: Callable[[], bool] = lambda: False
    stop_seconds: float = 10.0
    pace: Callable[[Settings, int], Pace] = pace_of


@dataclass(frozen=True, slots=True)
class _Work:
    """One claimed job with everything that does not change while it runs."""

    services: Services
    tools: Tools
    held: Claim
    stepper: Stepper
    plan: TrainingPlan
    request: JobRequest
    task: TrainingTask
    store: Path
    test_store: Path | None
    heartbeat: Heartbeat
    first_weights: Weights | None


class _Stopping(Exception):
    """The process was told to end."""


def run(services: Services, job_id: str, *, worker: str, tools: Tools) -> Ending:
    """Take a job and carry it as far as it goes.

    Args:
        services: the outside world.
        job_id: a hint from the broker; anything may stand in it.
        worker: this worker's name, for lease and operator.
        tools: sandbox, noise, shutdown.

    Returns:
        `not_taken` when there was nothing to claim, `fenced_out` when the claim was lost,
        `returned` when the job waits for another attempt, `ended` when it is over.
    """
    with services.database.unit_of_work() as session:
        held = rounds.claim(
            session,
            job_id,
            worker=worker,
            lease_seconds=services.settings.lease_seconds,
            now=services.clock(),
        )
    if held is None:
        return "not_taken"
    heartbeat = Heartbeat(
        services.database,
        held,
        every_seconds=held.lease_seconds / 4,
        stopping=tools.stopping,
        stop_seconds=tools.stop_seconds,
    )
    _log.info("claimed", job=job_id, fence=held.fence, attempt=held.attempt)
    with heartbeat:
        ending = _guarded(services, tools, held, heartbeat)
    _log.info("let_go", job=job_id, fence=held.fence, ending=ending)
    return ending


def _guarded(services: Services, tools: Tools, held: Claim, heartbeat: Heartbeat) -> Ending:
    """Run, and turn every way out into one of the endings."""
    try:
        failure = _attempt(services, tools, held, heartbeat)
        if failure is None:
            return "ended"
        return _give_back(services, tools, held, failure)
    except FencedOut:
        _log.warning("fenced_out", job=held.job_id, fence=held.fence)
        return "fenced_out"


def _attempt(services: Services, tools: Tools, held: Claim, heartbeat: Heartbeat) -> str | None:
    """One attempt; a word for why it stopped short, None when the job is over."""
    try:
        _run(_prepare(services, tools, held, heartbeat))
    except _Stopping:
        return "worker_stopping"
    except PolicyDown:
        return "policy_unavailable"
    except SandboxFailed as failed:
        # One that was ended from here has not failed, which a person could be charged for.
        return "worker_stopping" if heartbeat.abandoned else f"sandbox_{failed.code}"
    except AggregateInvalid:
        return "sandbox_protocol"
    except FencedOut:
        raise
    except DATABASE_DOWN as error:
        _log.warning("database_failed", job=held.job_id, reason=type(error).__name__)
        return "database_down"
    except Exception as error:
        _log.error("attempt_failed", job=held.job_id, fence=held.fence, **log.place_of(error))
        return "internal"
    return None


def _give_back(services: Services, tools: Tools, held: Claim, reason: str) -> Ending:
    """Back to the queue, or the end when too many attempts in a row failed."""
    now = services.clock()
    # A policy engine that is down and a worker that was told to stop say nothing about the job. A
    # database does not either, but what it never takes must not be tried for ever.
    blameless = reason in ("worker_stopping", "policy_unavailable") or tools.stopping()
    public = reason in ("worker_stopping", "policy_unavailable", "database_down")
    with services.database.unit_of_work() as session:
        job = rounds.guard(session, held)
        if not blameless and job.attempt >= services.settings.maximum_attempts:
            settlement.end(
                session,
                job,
                "failed",
                reason="too many attempts failed in a row",
                failure=failure_code(reason),
                detail=f"attempt {job.attempt} of worker {held.worker}: {reason}",
                now=now,
            )
            return "ended"
        # Asking a policy engine that is down again at once would only be noise.
        later = reason == "policy_unavailable"
        # What a failed attempt met may have been somebody's data: the event names no kind of it.
        shown = reason if public else events.FAILED
        rounds.release(session, held, reason=shown, now=now, blameless=blameless, later=later)
    _log.warning("given_back", job=held.job_id, fence=held.fence, because=reason)
    return "returned"


def _prepare(services: Services, tools: Tools, held: Claim, heartbeat: Heartbeat) -> _Work:
    """Everything that can be known without opening data."""
    with services.database.read() as session:
        job = session.get_one(Job, held.job_id)
        dataset = session.get_one(Dataset, job.dataset_id)
        request = recheck.request_of(job)
        first = _first_weights(session, job, request)
    plan = plan_for(request, dataset, clients=job.population_clients)
    store, test_store = catalogue.stores(dataset, services.settings.state_dir)
    return _Work(
        services=services,
        tools=tools,
        held=held,
        plan=plan,
        request=request,
        stepper=Stepper(plan, ServerOptimizer(**request.algorithm.server_optimizer.model_dump())),
        task=training_task(job.id, request, plan, dataset, trainer=_installed(services, request)),
        store=store,
        test_store=test_store,
        heartbeat=heartbeat,
        first_weights=first,
    )


def _first_weights(session: Session, job: Job, request: JobRequest) -> Weights | None:
    """What the request begins with, read before anything is charged; None for the seed's."""
    if request.initial is None or job.rounds_published:
        return None
    return initial.load(session, job.researcher_id, request.initial, request.model.architecture)


def _installed(services: Services, request: JobRequest) -> str | None:
    """Where the job's own trainer is; one that is gone since admission must not be replaced."""
    name = request.algorithm.trainer
    place = None if name is None else services.settings.trainer(name)
    if name is not None and place is None:
        raise LookupError("a trainer that is not installed any more")
    return place


def _run(work: _Work) -> None:
    """Blocks until nothing is left to charge, then the end."""
    trainers = Trainers(
        work.tools.open_trainer, work.task, work.store, work.test_store, work.heartbeat.guard
    )
    pace = work.tools.pace(work.services.settings, work.plan.rounds)
    publication = Publication(work.services, work.held)
    state: ServerState | None = None
    with ExitStack() as stack:
        stack.callback(trainers.close)
        stack.callback(work.heartbeat.rest)
        while True:
            if work.tools.stopping():
                raise _Stopping
            block = blocks.next_block(work.services, work.held, most=pace.rounds)
            if block is None:
                return
            if block.rounds == 0 and block.first == 1:
                _end_empty(work)
                return
            group_clients = _group_clients(work, block)
            if block.rounds and group_clients is None and not work.plan.public:
                trainers.begin()
            state = state or _first_state(work, trainers)
            if block.rounds == 0:
                _finish(work, trainers, state)
                return
            with pace.measured(block.rounds), publication.block():
                for round_number in block:
                    state = _round(work, trainers, publication, state, round_number, group_clients)


def _first_state(work: _Work, trainers: Trainers) -> ServerState:
    """The model where it was published last, or where it begins."""
    with work.services.database.read() as session:
        published = releases.checkpoint(session, work.held.job_id)
    if published is None:
        return ServerState(work.first_weights or trainers.initial_weights())
    if published.server_state is not None:
        shapes = modelspec.size_of(work.task.model).weight_shapes
        return ServerState.from_bytes(published.server_state, shapes)
    weights = [array.astype(np.float32) for array in tensors.load(published.weights).values()]
    return ServerState(weights, step=published.round)


def _group_clients(work: _Work, block: Block) -> int | None:
    """Most people one sandbox may see, by the decision that paid for the block; None: all."""
    apart = block.isolation == "per_client_group"
    return work.services.settings.isolation_group_clients if apart else None


def _round(
    work: _Work,
    trainers: Trainers,
    publication: Publication,
    state: ServerState,
    round_number: int,
    group_clients: int | None,
) -> ServerState:
    """One round that is paid for: cohort, sum, noise, step, and over to its publication."""
    train = partial(trainers.round, group_clients=group_clients)
    if work.plan.release == "evaluation":
        _publish_metrics(work, trainers, state, round_number, train)
        return state
    source = work.tools.noise()
    moved = work.stepper.step(state, round_number, source, train, publication.catch_up)
    publication.take(moved, round_number, work.stepper.norm_of(state))
    return moved


def _publish_metrics(
    work: _Work, trainers: Trainers, state: ServerState, round_number: int, train: Train
) -> None:
    """What was measured on clients, noised, beside what the public test set says.

    Where only public records are measured on, no sandbox with people's data is opened.
    """
    if work.plan.public:
        metrics = trainers.evaluate(state.weights)
    else:
        private = evaluate(
            work.plan,
            work.task.metric_names,
            state.weights,
            round_number=round_number,
            source=work.tools.noise(),
            train=train,
        )
        metrics = private | _public_metrics(trainers, state)
    with work.services.database.unit_of_work() as session:
        releases.publish(
            session,
            work.held,
            first=round_number,
            round_number=round_number,
            weights=None,
            server_state=None,
            digest=canonical.digest(metrics, floats=True),
            now=work.services.clock(),
        )
        releases.measure(session, rounds.guard(session, work.held), metrics)


def _public_metrics(trainers: Trainers, state: ServerState) -> dict[str, float]:
    """Figures on the public test set; a missing one must not fail a job that is paid for."""
    try:
        return trainers.evaluate(state.weights)
    except SandboxFailed:
        return {}


def _finish(work: _Work, trainers: Trainers, state: ServerState) -> None:
    """Measure the released model on public data, settle, write the receipt."""
    metrics = _public_metrics(trainers, state) if state.step else {}
    if work.heartbeat.abandoned:  # whoever takes the job next can measure in peace
        raise _Stopping
    now = work.services.clock()
    with work.services.database.unit_of_work() as session:
        job = rounds.guard(session, work.held)
        if metrics:
            releases.measure(session, job, metrics)
        settlement.end(session, job, "completed", reason=_how_it_ended(job), now=now)


def _end_empty(work: _Work) -> None:
    """The reservation is used up by attempts that failed, and there is no model."""
    with work.services.database.unit_of_work() as session:
        settlement.end(
            session,
            rounds.guard(session, work.held),
            "failed",
            reason="every round was charged to attempts that failed",
            failure="nothing_published",
            now=work.services.clock(),
        )


def _how_it_ended(job: Job) -> str:
    if job.rounds_published == job.rounds:
        return f"all {job.rounds} rounds were published"
    return (
        f"{job.rounds_published} of {job.rounds} rounds were published; rounds had to be repeated"
        " and the reservation had no room for more"
    )
