"""PostgreSQL killed under load, or silent in the middle of a transaction: nothing is half done."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from accounting import ledger
from gateway import schema
from gateway.settings import GatewaySettings
from jobs import admission
from jobs.services import Services
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway.errors import Refused
from privacy_gateway.verify import verify
from tests.accounting.support import balance, charge, export, open_population, reserve
from tests.faults.cluster import Cluster, Network, cluster, network, through
from tests.gateway import clinic
from tests.gateway.conftest import ROLES, Gateway, running
from tests.reference import fleet, traffic
from tests.reference.audit import audit
from tests.support import market as markets
from tests.support.market import RESEARCHER, request
from tests.support.servers import wait_until

pytestmark = pytest.mark.slow

KILLS = 4
# Long enough for a server on a busy machine to answer in, short enough to wait for.
SILENCE = 3.0
LOST = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError)


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine(processes=1) as made:
        yield made


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:

    with (
        tempfile.TemporaryDirectory(prefix="gateway-fault-") as folder,
        cluster(Path(folder)) as it,
    ):
        yield it


class Posting:
    """A researcher who posts jobs by HTTP, each under a key of its own, and repeats what failed."""

    def __init__(self, clinic: clinic.Clinic, number: int) -> None:
        self.clinic, self.number = clinic, number
        self.accepted: dict[str, str] = {}
        self.answers: Counter[str] = Counter()

    def go(self, stop: threading.Event) -> None:
        made = 0
        with self.clinic.house.client("researcher") as client:
            while not stop.is_set():
                made += 1
                self._post(client, f"key-{self.number}-{made}", stop)

    def _post(self, client: httpx.Client, key: str, stop: threading.Event) -> None:
        """Until there is an answer that is one; a 503 is none, so the same key is sent again."""
        while not stop.is_set():
            body = self.clinic.job(rounds=1, noise_multiplier=6.0)
            answer = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
            said = answer.json()
            self.answers[said.get("code", str(answer.status_code))] += 1
            if answer.status_code == 202:
                self.accepted[key] = said["id"]
            if answer.status_code != 503:
                return
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["Retry-After"]


def test_kill_postgres_four_times_under_load(
    server: Cluster, engine: EmbeddedEngine, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    settings = GatewaySettings(
        state_dir=tmp_path / "state",
        database_url=server.url,
        housekeeping_seconds=0.05,
        policy_deadline_seconds=20.0,
    )
    database = Database(server.url)
    schema.upgrade(database)
    services = Services(settings, database, engine)
    stop = threading.Event()
    with running(settings, services) as house, ThreadPoolExecutor(3) as pool:
        for role in ROLES:
            house.add(role, role)
        place = clinic.opened(house)
        names = traffic.open_all(database, 3)
        crew = fleet.clients(6, names, seed=4)
        posts = [Posting(place, number) for number in range(2)]
        storm = pool.submit(fleet.run_until, database, crew, stop.is_set, LOST)
        posting = [pool.submit(one.go, stop) for one in posts]
        try:
            for kill in range(KILLS):
                _wait_for_progress(crew, posts)
                server.kill(all_at_once=kill % 2 == 1)
                _wait_for_refusals(posts)
                server.start()
            _wait_for_progress(crew, posts)
        finally:
            stop.set()
        met = storm.result()
        for one in posting:
            one.result()
        assert sum(met.values()) >= KILLS
        _check_jobs(house, place, posts)
    told = [seal for client in crew for seal in client.acknowledged]
    found = audit(database, told)
    assert found.entries > len(told) > 50
    report = verify(export(database))
    assert report.ok, report.problems[:3]
    database.close()


def _wait_for_progress(crew: list[traffic.Client], posts: list[Posting]) -> None:
    """The load has got somewhere since the call."""
    heard = sum(len(client.acknowledged) for client in crew)
    taken = sum(len(one.accepted) for one in posts)
    wait_until(
        lambda: (
            sum(len(client.acknowledged) for client in crew) > heard + 20
            and sum(len(one.accepted) for one in posts) > taken + 2
        ),
        what="progress under load",
    )


def _wait_for_refusals(posts: list[Posting]) -> None:
    """The gateway says that it cannot, in its own words."""
    said = sum(one.answers["unavailable"] for one in posts)
    wait_until(
        lambda: sum(one.answers["unavailable"] for one in posts) > said + 2,
        what="a refusal while the database is down",
    )


def _check_jobs(house: Gateway, place: clinic.Clinic, posts: list[Posting]) -> None:
    """Every accepted job is there and holds one reservation; no key made two."""
    allowed = {"202", "unavailable", "budget_exceeded", "conflict"}
    with house.services.database.read() as session:
        for one in posts:
            assert set(one.answers) <= allowed, one.answers
            for job in one.accepted.values():
                assert ledger.held(session, job) is not None
        reserved = ledger.entries(
            session, population=place.population, kind="reserve", limit=100_000
        )
    accepted = [job for one in posts for job in one.accepted.values()]
    assert len(accepted) == len(set(accepted))
    # A job whose answer was lost and whose key was not sent again before the end, at most.
    jobs = {entry.job_id for entry in reserved}
    assert set(accepted) <= jobs
    assert len(jobs) <= len(accepted) + len(posts)
    assert len(reserved) == len(jobs)


@pytest.fixture
def cut(postgres_database_url: str) -> Iterator[tuple[Database, Database, Network]]:
    """The database by a straight way, and by one that can be cut."""
    straight = Database(postgres_database_url)
    with network(straight.url.port or 0) as relay:
        far = Database(through(straight.url, relay), silence_seconds=SILENCE)
        yield straight, far, relay
        far.close()
    straight.close()


@pytest.mark.parametrize("way", ["requests", "answers", "both"])
@pytest.mark.parametrize("moment", ["before the charge", "before the commit"])
def test_a_silent_network_in_a_transaction(
    cut: tuple[Database, Database, Network], way: str, moment: str
) -> None:
    straight, far, relay = cut
    with straight.unit_of_work() as session:
        open_population(session)
        reserve(session, "job_1")
    before = balance(straight)
    begun = time.monotonic()
    with pytest.raises(sa.exc.OperationalError), far.unit_of_work() as session:
        if moment == "before the commit":
            charge(session, "job_1", 1, 5)
        relay.cut(requests=way != "answers", answers=way != "requests")
        if moment == "before the charge":
            charge(session, "job_1", 1, 5)
    assert time.monotonic() - begun < 10 * SILENCE
    # The server gives the lock of a transaction back that nobody finishes: this one can charge.
    with straight.unit_of_work() as session:
        taken = charge(session, "job_1", 1, 5, attempt=2)
    assert taken.rounds_charged == 5
    done = audit(straight).charged_rounds()
    # Only a commit whose answer was lost may have happened, and then it happened as a whole.
    assert done == 5 or (done == 10 and way == "answers" and moment == "before the commit")
    assert before.charged != balance(straight).charged
    relay.heal()
    with far.unit_of_work() as session:
        assert charge(session, "job_1", 6, 5, attempt=2).rounds_charged == 5
    assert verify(export(straight)).ok


def test_a_commit_whose_answer_is_lost_makes_one_job(
    postgres_database_url: str, engine: EmbeddedEngine, tmp_path: Path
) -> None:
    straight = Database(postgres_database_url)
    market = markets.open_market(straight, engine, tmp_path)
    with network(straight.url.port or 0) as relay:
        far = Database(through(straight.url, relay), silence_seconds=SILENCE)

        @sa.event.listens_for(far.engine, "commit")
        def _lose(connection: sa.Connection) -> None:
            # Readers end with a commit too.
            if not connection.get_execution_options().get("postgresql_readonly"):
                relay.cut(requests=False)

        services = Services(market.services.settings, far, engine, market.clock)
        with pytest.raises(sa.exc.OperationalError):
            admission.submit(services, RESEARCHER, request(market.dataset_id), "the-key")
        far.close()
    wait_until(lambda: len(market.entries("reserve")) == 1, what="the commit nobody heard of")
    again = admission.submit(market.services, RESEARCHER, request(market.dataset_id), "the-key")
    assert again.replayed
    assert [entry.job_id for entry in market.entries("reserve")] == [again.job.id]
    with pytest.raises(Refused) as refusal:
        admission.submit(
            market.services, RESEARCHER, request(market.dataset_id, rounds=3), "the-key"
        )
    assert refusal.value.code == "idempotency_mismatch"
    audit(straight)
    straight.close()
