"""Jobs under the coordinator with a trainer in process: how tests submit, run and read them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from jobs import admission, events, rounds, states
from jobs.rounds import Claim
from jobs.tables import Job, JobRelease
from tests.support import market as support
from tests.support.market import RESEARCHER, Market
from tests.support.pace import longest
from tests.support.servers import wait_until
from tests.support.trainer import Stable
from worker import coordinator
from worker.coordinator import Tools
from worker.launcher import FailureCode, SandboxFailed
from worker.noise import NoiseSource

KEY = bytes(range(32))
# Passes of ten rounds: the second tree begins with round 11.
TREE = {
    "algorithm": {"name": "dp_ftrl", "clip_norm": 1.0, "server_optimizer": {"name": "momentum"}},
    "sampling": "none",
    "clients_per_round": 100,
    "noise_multiplier": 6.0,
    "rounds": 12,
}
ADAPTIVE = {"algorithm": {"name": "dp_fedavg", "clip_norm": "adaptive"}, "rounds": 12}


def submit(market: Market, **changes: Any) -> str:
    request = support.request(market.dataset_id, **({"rounds": 12} | changes))
    return admission.submit(market.services, RESEARCHER, request, None).job.id


def run(market: Market, job_id: str, stable: Stable, **tools: Any) -> str:
    given = {"noise": lambda: NoiseSource(KEY), "pace": longest} | tools
    made = Tools(open_trainer=stable, **given)
    return coordinator.run(market.services, job_id, worker="w1", tools=made)


def abandon(market: Market, job_id: str, *, in_round: int = 1) -> str:
    """A worker is told to stop in a round that does not end, and kills its sandbox."""
    stop: list[int] = []
    stable = Stable()

    def endless(number: int) -> None:
        if number < in_round:
            return
        stop.append(number)
        training = next(m for m, people in zip(stable.made, stable.stores, strict=True) if people)
        wait_until(lambda: training.killed, what="the kill", seconds=20)
        raise SandboxFailed(FailureCode.CRASHED)

    stable.before_round = endless
    return run(market, job_id, stable, stopping=lambda: bool(stop), stop_seconds=0.01)


def claimed(market: Market) -> Claim:
    """A job in the hands of a worker that has not begun."""
    job_id = submit(market)
    with market.database.unit_of_work() as session:
        held = rounds.claim(session, job_id, worker="w", lease_seconds=60, now=market.clock())
    assert held is not None
    return held


def waiting(market: Market, seconds: float) -> Market:
    """The market with another `publish_seconds`."""
    settings = market.services.settings.model_copy(update={"publish_seconds": seconds})
    return replace(market, services=replace(market.services, settings=settings))


def lose(market: Market, job_id: str) -> None:
    """The worker is gone: its lease ends, and the job is queued anew."""
    with market.database.unit_of_work() as session:
        table = Job.__table__
        session.execute(sa.update(table).where(table.c.id == job_id).values(lease_expires_at=1))
        states.enqueue(session, states.locked(session, job_id), now=market.clock())


def keeping_groups_apart() -> str:
    """The market's policy with the obligation."""
    none, apart = "set(),\n}", '{{"type": "isolation", "value": "per_client_group"}},\n}'
    source = support.policy()
    assert source.count(f'"obligations": {none}') == 1
    return source.replace(f'"obligations": {none}', f'"obligations": {apart}')


def job(market: Market, job_id: str) -> Job:
    with market.database.read() as session:
        return session.get_one(Job, job_id)


def releases(market: Market, job_id: str) -> list[Any]:
    with market.database.read() as session:
        table = JobRelease.__table__
        query = sa.select(table).where(table.c.job_id == job_id).order_by(table.c.round)
        return list(session.execute(query))


def published(market: Market, job_id: str) -> list[int]:
    return [row.round for row in releases(market, job_id)]


def told(market: Market, job_id: str, kind: str) -> list[dict[str, Any]]:
    with market.database.read() as session:
        return [event.body for event in events.since(session, job_id) if event.kind == kind]


def kinds(market: Market, job_id: str) -> list[str]:
    with market.database.read() as session:
        return [event.kind for event in events.since(session, job_id)]


def assert_settled(market: Market) -> None:
    assert set(market.balance().reserved) == {0}
