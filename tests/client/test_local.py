"""The same call here: the worker's rounds, the gateway's refusals, and the price told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import privacy_gateway as pg
from accounting import curve
from accounting.plan import TrainingPlan
from privacy_gateway import local
from privacy_gateway.datasets import Mock

PEOPLE, RECORDS = 60, 8
PARAMS: dict[str, Any] = {
    "rounds": 12,
    "no_clients": PEOPLE,
    "noise_multiplier": 0.5,
    "clients_per_round": 30,
    "train_data_id": "ast_1",
    "label_data_id": "ast_2",
}


def mock() -> Mock:
    """Two classes a linear model can tell, the records of everybody mixed."""
    generator = np.random.default_rng(3)
    client = generator.permutation(np.repeat(np.arange(PEOPLE), RECORDS))
    label = generator.integers(0, 2, len(client))
    features = generator.normal(size=(len(client), 4)) + 3.0 * label[:, None]
    return Mock(features.astype(np.float32), label, client)


def linear() -> Any:
    import keras

    return keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2, activation="softmax")])


def refused(params: dict[str, Any], data: Any, make: Any = linear) -> pg.Refused:
    with pytest.raises(pg.Refused) as caught:
        pg.local.train_model(make, params, data, progress=False)
    return caught.value


@pytest.mark.tensorflow
def test_the_announcements_call_runs_here_and_tells_the_price(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = mock()
    algorithm = {"name": "dp_fedavg", "client_optimizer": {"name": "sgd", "learning_rate": 0.5}}
    model, metrics = pg.local.train_model(linear, PARAMS | {"algorithm": algorithm}, data)

    assert metrics["accuracy"] > 0.9
    assert metrics["examples"] == PEOPLE * RECORDS
    right = model.predict(data.features, verbose=0).argmax(1) == data.label
    assert right.mean() == pytest.approx(metrics["accuracy"], abs=1e-6)
    plan = TrainingPlan(PEOPLE, 30, 12, 0.5)
    epsilon = curve.standalone_epsilon(plan.mechanism, 12, 1e-5)
    told = capsys.readouterr().err
    assert f"ε = {epsilon:.4g} at δ = 1e-05" in told
    assert "round 12 of 12" in told


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"no_clients": 59}, "no_clients"),
        ({"clients_per_round": PEOPLE + 1}, "clients_per_round"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"epsilon": 1.0}, "epsilon"),
        ({"initial": {"job": "job_1"}}, "initial"),
        ({"algorithm": {"name": "dp_fedprox"}}, "algorithm.proximal_mu"),
        ({"algorithm": {"name": "dp_fedavg", "trainer": "mine"}}, "algorithm.trainer"),
    ],
)
def test_what_a_gateway_refuses_of_a_request_is_refused_here(
    changes: dict[str, Any], field: str
) -> None:
    assert [error.field for error in refused(PARAMS | changes, mock()).errors] == [field]


@pytest.mark.tensorflow
def test_data_that_do_not_fit_are_refused_by_column() -> None:
    data = {"features": mock().features, "label": mock().label, "client": mock().client}
    for name in data:
        missing = {other: column for other, column in data.items() if other != name}
        assert refused(PARAMS, missing).errors[0].field == f"data.{name}"
    short = data | {"label": data["label"][:-1]}
    assert refused(PARAMS, short).errors[0].field == "data.label"
    wide = data | {"features": np.ones((len(data["label"]), 5), np.float32)}
    assert refused(PARAMS, wide).code == "model_refused"


@pytest.mark.tensorflow
@pytest.mark.parametrize("what", ["data", "test"])
def test_records_that_no_gateway_would_register_are_refused_by_column(what: str) -> None:
    good = {"features": mock().features, "label": mock().label, "client": mock().client}
    wrong: list[tuple[str, Any]] = [
        ("features", np.full_like(good["features"], np.nan)),
        ("features", good["features"].astype(np.float64) * 1e300),
        ("features", good["features"].astype("U8")),
        ("label", good["label"] + 2),
        ("label", good["label"] - 1),
        ("label", good["label"].astype(np.float32) / 3),
        ("label", good["label"][:, None]),
        ("label", good["label"].astype(bool)),
    ]
    for name, column in wrong:
        bad = good | {name: column}
        with pytest.raises(pg.Refused) as caught:
            pg.local.train_model(
                linear,
                PARAMS,
                bad if what == "data" else good,
                test=bad if what == "test" else None,
                progress=False,
            )
        assert [error.field for error in caught.value.errors] == [f"{what}.{name}"]
    narrow = good | {"features": good["features"][:, :3]}
    with pytest.raises(pg.Refused) as caught:
        pg.local.train_model(linear, PARAMS, good, test=narrow, progress=False)
    assert caught.value.code == "model_refused"
    for delta in (0.0, 2.0, float("nan")):
        with pytest.raises(pg.Refused, match="delta"):
            pg.local.train_model(linear, PARAMS, good, delta=delta, progress=False)


@pytest.mark.tensorflow
def test_numbers_of_any_type_are_taken() -> None:
    data = mock()
    given = {
        "features": data.features.astype(">f2"),
        "label": data.label.astype(np.uint32),
        "client": data.client.astype(str),
    }
    _, metrics = pg.local.train_model(linear, PARAMS | {"rounds": 1}, given, progress=False)
    assert metrics["examples"] == len(data.label)


def test_without_the_engine_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "ENGINE", "worker.is_not_installed")
    refusal = refused(PARAMS, mock(), make=lambda: pytest.fail("a model was made"))
    assert refusal.code == "unsupported"
    assert "privacy-gateway-server[worker]" in refusal.detail
