"""The announcement's call: its six keys, its refusals, and a model that travels as data."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest

import privacy_gateway as pg
from privacy_gateway import tff
from tests.client.conftest import CLIENTS, LINEAR, House


def params_of(house: House, **changes: Any) -> dict[str, Any]:
    """The six keys."""
    dataset = house.researcher.datasets[0]
    base = {
        "rounds": 10,
        "no_clients": CLIENTS,
        "noise_multiplier": 2.0,
        "clients_per_round": 10,
        "train_data_id": dataset["images"].id_at_location.to_string(),
        "label_data_id": dataset["labels"].id_at_location.to_string(),
    }
    return base | changes


def no_model() -> NoReturn:
    raise AssertionError("a model was made for a call that is refused anyway")


class Model:
    """What a call looks at to tell a Keras model from a function that makes one."""

    def get_config(self) -> None:
        """Never called."""

    def __call__(self, inputs: Any) -> Any:
        """Keras models can be called, too."""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Model(), "a function without arguments"),
        (None, "a function without arguments"),
        (lambda: None, "must return a Keras model, not NoneType"),
    ],
)
def test_what_makes_no_model_is_refused_before_anything_is_sent(
    house: House, given: Any, words: str
) -> None:
    with pytest.raises(pg.Refused, match=words) as caught:
        pg.tff.train_model(given, params_of(house), house.researcher, timeout=1)
    assert [error.field for error in caught.value.errors] == ["model_fn"]


def refused(house: House, params: dict[str, Any], *fields: str) -> pg.Refused:
    with pytest.raises(pg.Refused) as caught:
        pg.tff.train_model(no_model, params, house.researcher, timeout=1)
    assert caught.value.code == "invalid_request"
    assert [error.field for error in caught.value.errors] == list(fields)
    assert house.researcher.jobs() == []
    return caught.value


@pytest.mark.parametrize("stated", [3, CLIENTS - 1, float(CLIENTS), str(CLIENTS), True, None])
def test_a_wrong_number_of_clients_is_refused_with_both(house: House, stated: Any) -> None:
    refusal = refused(house, params_of(house, no_clients=stated), "no_clients")
    assert refusal.facts == {"no_clients": stated, "population_clients": CLIENTS}
    assert str(CLIENTS) in refusal.detail


def test_every_missing_and_unknown_key_is_named(house: House) -> None:
    params = params_of(house, epsilon=8.0, seed=1)
    del params["rounds"], params["label_data_id"]
    refused(house, params, "rounds", "label_data_id", "epsilon", "seed")


def test_ids_must_be_features_and_label_of_one_data_set(house: House) -> None:
    right = params_of(house)
    images, labels = right["train_data_id"], right["label_data_id"]
    refused(house, right | {"train_data_id": "ast_absent"}, "train_data_id")
    refused(house, right | {"train_data_id": labels}, "train_data_id")
    refused(house, right | {"label_data_id": images}, "label_data_id")


@pytest.fixture
def plain_converter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for Keras where the model is not what is tested."""
    monkeypatch.setattr(tff, "architecture_of", lambda model: LINEAR)


class Plain:
    """Stands for a Keras model; its class is a function that makes one."""

    def get_config(self) -> dict[str, Any]:
        return {}


@pytest.mark.usefixtures("plain_converter")
class TestWithoutKeras:
    def test_assets_may_be_given_as_they_are(self, house: House) -> None:
        dataset = house.researcher.datasets[0]
        by_asset = params_of(house, train_data_id=dataset.features, label_data_id=dataset.label)
        _, first = tff.job_of(Plain, by_asset, house.researcher)
        _, second = tff.job_of(Plain, params_of(house), house.researcher)
        assert first == second
        assert house.researcher.quote(first).passes

    def test_members_of_the_job_body_are_optional_keys(self, house: House) -> None:
        extra = {"purpose": "teaching", "algorithm": {"name": "dp_fedsgd"}, "loss": "x"}
        _, body = tff.job_of(Plain, params_of(house, **extra), house.researcher)
        assert {name: body[name] for name in extra} == extra

    def test_the_loss_of_a_compiled_model_is_used(self, house: House) -> None:
        class Named:
            name = "binary_crossentropy"

        class Model(Plain):
            def __init__(self, loss: Any) -> None:
                self.loss = loss

        for loss, name in ((Named(), Named.name), ("mean_squared_error", "mean_squared_error")):
            _, body = tff.job_of(lambda loss=loss: Model(loss), params_of(house), house.researcher)
            assert body["loss"] == name

    def test_a_job_that_costs_too_much_is_refused_by_the_gateway(self, house: House) -> None:
        params = params_of(house, noise_multiplier=0.05, clients_per_round=2)
        with pytest.raises(pg.Refused) as caught:
            tff.train_model(Plain, params, house.researcher, timeout=5)
        assert caught.value.price is not None
        assert caught.value.price > 1000
        assert caught.value.counter_offer is not None

    def test_an_ended_job_without_a_model_is_no_result(self, house: House) -> None:
        class Cancelling:
            """A domain whose owner cancels at once."""

            def __getattr__(self, name: str) -> Any:
                return getattr(house.researcher, name)

            def submit(self, body: Any, *, model: Any) -> pg.Job:
                return house.researcher.submit(body, model=model).cancel()

        with pytest.raises(pg.JobNotCompleted, match="is cancelled") as caught:
            tff.train_model(Plain, params_of(house), Cancelling(), progress=False)  # type: ignore[arg-type]
        assert caught.value.job.ended


@pytest.mark.tensorflow
@pytest.mark.slow
def test_a_keras_model_travels_as_architecture(house: House) -> None:
    import keras

    def model_fn() -> Any:
        flat, dense = keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")
        model = keras.Sequential([keras.Input((2, 2)), flat, dense])
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy())
        return model

    model, body = tff.job_of(model_fn, params_of(house), house.researcher)
    assert isinstance(model, keras.Model)
    assert body["loss"] == "sparse_categorical_crossentropy"
    assert house.researcher.quote(body).passes
    assert house.researcher.submit(body, model=model).model is model
