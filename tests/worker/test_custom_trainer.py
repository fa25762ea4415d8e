"""Local training that an operator installs: inside the clip, in the sandbox, never unasked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from jobs import admission
from jobs.settings import Settings
from jobs.tables import Job
from kit.db import Database
from policies.embedded import EmbeddedEngine
from privacy_gateway.errors import Refused
from tests.support import market as markets
from tests.support.market import RESEARCHER
from tests.support.trainer import Stable
from tests.worker import engine as small
from worker import coordinator
from worker.coordinator import Tools
from worker.launcher import Sandbox, SandboxFailed
from worker.task import GRID

SIGN = "worker.training.algorithms.example:SignStep"
SIZES = [12, 7, 0, 30, 9]
EVERYBODY = np.arange(len(SIZES))


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedEngine]:
    with markets.engine(processes=1) as made:
        yield made


@pytest.mark.tensorflow
def test_an_installed_trainer_runs_in_the_sandbox_and_is_clipped(tmp_path: Path) -> None:
    small.store(tmp_path / "people", SIZES)
    weights = None
    for norm in (100.0, 0.01):
        task = small.task(small.LINEAR, trainer=SIGN, clip_norm=norm)
        with Sandbox(task, tmp_path / "people") as sandbox:
            weights = sandbox.initial_weights()
            each = [sandbox.round(1, np.array([client]), weights) for client in EVERYBODY]
        for client, size in enumerate(SIZES):
            flat = np.concatenate([part.ravel() for part in each[client]]) / GRID * norm
            assert np.linalg.norm(flat) <= norm
            if norm == 100.0:
                # Every weight moves by the learning rate; a client without rows by nothing.
                moved = 0.1 if size else 0.0
                np.testing.assert_allclose(np.abs(flat), moved, atol=2 * norm / GRID)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "place",
    [
        "worker.training.algorithms.custom:Trainer",
        "worker.training.algorithms.example:Any",
        "worker.training.algorithms.example:Nothing",
        "no_such_package.trainers:Fancy",
    ],
)
def test_what_is_no_trainer_with_an_event_cannot_be_loaded(tmp_path: Path, place: str) -> None:
    from worker.training.algorithms import custom

    task = small.task(small.LINEAR, trainer=place)
    with pytest.raises(ImportError if "no_such" in place else LookupError):
        custom.local(task, None, [])  # type: ignore[arg-type]


@pytest.mark.tensorflow
def test_one_that_declares_another_event_than_was_priced_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from worker.training.algorithms import custom, example

    class Trees(example.SignStep):
        events: ClassVar[Any] = ("tree_sum",)

    monkeypatch.setattr(example, "SignStep", Trees)
    with pytest.raises(LookupError, match="event"):
        custom.local(small.task(small.LINEAR, trainer=SIGN), None, [])  # type: ignore[arg-type]
    custom.local(small.task(small.LINEAR, trainer=SIGN, event="tree_sum"), None, [])  # type: ignore[arg-type]


@pytest.mark.tensorflow
@pytest.mark.parametrize("what", ["a variable", "an assertion", "a variable in a loop", "Python"])
def test_one_that_keeps_or_asks_something_cannot_be_traced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """With a variable, one person's records would move everybody's updates."""
    import tensorflow as tf

    from worker.training import models
    from worker.training.algorithms import custom, example
    from worker.training.federated import FederatedRound

    class Keeping(custom.Trainer):
        events: ClassVar[Any] = ("gaussian_sum",)

        def __init__(self, task: Any, model: Any) -> None:
            super().__init__(task, model)
            self.seen = tf.Variable(0.0)

        def update(self, weights: Any, rows: Any) -> Any:
            labels = tf.cast(rows.labels[rows.start : rows.stop], tf.float32)
            return [tf.ones_like(w) * self._moved(labels) for w in weights]

        def _moved(self, labels: Any) -> Any:
            if what == "a variable":
                return self.seen.assign_add(tf.reduce_sum(labels))
            if what == "an assertion":
                with tf.control_dependencies([tf.debugging.assert_less(labels, 2.0)]):
                    return tf.reduce_sum(labels)
            if what == "Python":
                return tf.numpy_function(np.sum, [labels], tf.float32, stateful=False)
            add = lambda k, _: (k + 1, self.seen.assign_add(1.0))  # noqa: E731
            return tf.while_loop(lambda k, _: k < 2, add, (0, 0.0))[1]

    monkeypatch.setattr(example, "SignStep", Keeping)
    task = small.task(small.LINEAR, trainer=SIGN)
    model = models.build(task)
    clients = small.store(tmp_path / "people", SIZES)
    federated = FederatedRound(task, clients, custom.local(task, model, model.shapes), model.shapes)
    with pytest.raises(TypeError, match="without state"):
        federated.sum_of(0, EVERYBODY, models.first_weights(task))


@pytest.mark.tensorflow
def test_who_has_no_records_adds_nothing_whatever_the_trainer_makes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weight decay moves a client without rows too; her first record could turn that by 2 C."""
    import tensorflow as tf

    from worker.training import models
    from worker.training.algorithms import custom, example
    from worker.training.federated import FederatedRound

    class Decaying(custom.Trainer):
        events: ClassVar[Any] = ("gaussian_sum",)

        def update(self, weights: Any, rows: Any) -> Any:
            sign = tf.where(rows.stop > rows.start, 1.0, -1.0)
            return [sign * tf.ones_like(w) for w in weights]

    monkeypatch.setattr(example, "SignStep", Decaying)
    task = small.task(small.LINEAR, trainer=SIGN)
    model = models.build(task)
    clients = small.store(tmp_path / "people", SIZES)
    federated = FederatedRound(task, clients, custom.local(task, model, model.shapes), model.shapes)
    weights = models.first_weights(task)
    for client, size in enumerate(SIZES):
        sums = federated.sum_of(0, np.array([client]), weights)
        assert any(part.any() for part in sums) == (size > 0)


@pytest.mark.tensorflow
def test_a_trainer_sees_no_rows_but_the_clients_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that centres features, say: over the whole slice everybody would move everybody."""
    import tensorflow as tf

    from worker.training import models
    from worker.training.algorithms import custom, example
    from worker.training.federated import FederatedRound

    class Centring(custom.Trainer):
        events: ClassVar[Any] = ("gaussian_sum",)

        def update(self, weights: Any, rows: Any) -> Any:
            seen = tf.concat([tf.reshape(rows.features, [-1]), [0.0]], 0)
            return [tf.ones_like(w) * tf.reduce_sum(seen) for w in weights]

    monkeypatch.setattr(example, "SignStep", Centring)
    task = small.task(small.LINEAR, trainer=SIGN, clip_norm=1000.0)
    model = models.build(task)
    clients = small.store(tmp_path / "people", SIZES)
    federated = FederatedRound(task, clients, custom.local(task, model, model.shapes), model.shapes)
    weights = models.first_weights(task)
    each = [federated.sum_of(0, np.array([client]), weights) for client in EVERYBODY]
    together = federated.sum_of(0, EVERYBODY, weights)
    for place, part in enumerate(together):
        np.testing.assert_array_equal(part, sum(alone[place] for alone in each))
        assert part.any()


@pytest.mark.tensorflow
def test_a_sandbox_says_a_code_and_no_more_of_one_that_is_missing(tmp_path: Path) -> None:
    small.store(tmp_path / "people", SIZES)
    task = small.task(small.LINEAR, trainer="no_such_package.trainers:Fancy")
    with pytest.raises(SandboxFailed, match=r"^model_failed$"), Sandbox(task, tmp_path / "people"):
        pass


@pytest.mark.parametrize("value", ["sign", "sign=os", "a=b:c,", "a=b:c;d=e:f", "=b:c", "a=b.c:d()"])
def test_a_setting_that_names_no_class_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ValueError, match="trainers"):
        Settings(state_dir=tmp_path, trainers=value)


def test_only_what_is_installed_is_admitted_told_to_the_policy_and_sent_to_the_sandbox(
    sqlite_database: Database, engine: EmbeddedEngine, tmp_path: Path
) -> None:
    market = markets.open_market(sqlite_database, engine, tmp_path)
    settings = market.services.settings.model_copy(update={"trainers": f"sign={SIGN},x=a.b:C"})
    services = market.services.__class__(settings, market.database, engine, market.clock)

    def ask(name: str, trainer: str) -> str:
        algorithm = {"name": name, "trainer": trainer}
        request = markets.request(market.dataset_id, rounds=2, algorithm=algorithm)
        return admission.submit(services, RESEARCHER, request, None).job.id

    for name, trainer in (("dp_fedavg", "unknown"), ("dp_fedsgd", "sign")):
        with pytest.raises(Refused) as caught:
            ask(name, trainer)
        assert [error.field for error in caught.value.errors] == ["algorithm.trainer"]

    job_id, stable = ask("dp_fedavg", "sign"), Stable()
    tools = Tools(open_trainer=stable)
    assert coordinator.run(services, job_id, worker="w", tools=tools) == "ended"
    assert {trainer.task.trainer for trainer in stable.made} == {SIGN}
    with market.database.read() as session:
        assert session.get_one(Job, job_id).status == "completed"

    known = 'not input.job.algorithm in {"dp_fedavg", "dp_fedsgd"}'
    market.activate(markets.policy().replace("input.job.rounds > 1000\n", f"{known}\n"))
    with pytest.raises(Refused, match="policy_denied"):
        ask("dp_fedavg", "sign")
