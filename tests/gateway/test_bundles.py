"""A real OPA server that lives by the gateway's signed bundles, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from gateway.settings import GatewaySettings
from jobs.services import Services
from policies.bundle import BundleKey
from policies.opa import OpaEngine
from privacy_gateway.errors import Refused
from tests.gateway.clinic import opened, publish
from tests.gateway.conftest import ROLES, Gateway, running
from tests.support.engines import new_bundle_key, opa_configuration, opa_server
from tests.support.market import policy
from tests.support.servers import free_port

TOKEN = "what-the-policy-server-shows"


@pytest.fixture
def key() -> BundleKey:
    return new_bundle_key()


@pytest.fixture
def bundling(settings: GatewaySettings, key: BundleKey) -> GatewaySettings:
    """Settings of a gateway whose policy server lives by bundles."""
    return settings.model_copy(
        update={
            "opa_bundles": True,
            "opa_bundle_key": SecretStr(key.pem.decode()),
            "opa_bundle_token": SecretStr(TOKEN),
            "policy_deadline_seconds": 20.0,
        }
    )


@pytest.fixture
def house(
    bundling: GatewaySettings, services: Services, key: BundleKey, opa_binary: str, tmp_path: Path
) -> Iterator[Gateway]:
    """A gateway whose policy server takes its bundles from this gateway, as in a deployment."""
    port = free_port()
    engine = OpaEngine(f"http://127.0.0.1:{port}", bundled=True)
    config = tmp_path / "opa.json"
    with running(bundling, replace(services, settings=bundling, engine=engine)) as gateway:
        wanted = opa_configuration(gateway.url, "v1/bundles/policies", TOKEN, key)
        config.write_text(json.dumps(wanted))
        with opa_server(opa_binary, tmp_path, port, config=config):
            for role in ROLES:
                gateway.add(role, role)
            yield gateway
    engine.close()


def test_an_activated_policy_decides_at_once(house: Gateway) -> None:
    clinic = opened(house)
    job = clinic.job()
    quote = house.ok("researcher", "POST", "/v1/quotes", json={"job": job})
    assert quote["verdict"] == "allow"
    publish(house, clinic.dataset, policy(rounds=3))
    refused = house.refused(
        "researcher", "POST", "/v1/jobs", json=job, headers={"Idempotency-Key": "k"}
    )
    assert refused["code"] == "policy_denied"
    assert house.services.engine.version.startswith("opa 1.")
    assert "bundle" in house.services.engine.version


def test_the_bundle_is_for_who_shows_the_token(house: Gateway) -> None:
    clinic = opened(house)
    with httpx.Client(base_url=house.url, trust_env=False) as client:
        path = "/v1/bundles/policies"
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
        owner = {"Authorization": f"Bearer {house.tokens['owner']}"}
        assert client.get(path, headers=owner).status_code == 401
        good = {"Authorization": f"Bearer {TOKEN}"}
        answer = client.get(path, headers=good)
        assert answer.status_code == 200
        again = client.get(path, headers=good | {"If-None-Match": answer.headers["ETag"]})
        assert again.status_code == 304
        publish(house, clinic.dataset, policy(rounds=3))
        changed = client.get(path, headers=good | {"If-None-Match": answer.headers["ETag"]})
        assert changed.status_code == 200


def test_without_bundles_there_is_no_such_route(gateway: Gateway) -> None:
    assert gateway.app.state.press is None


@pytest.mark.parametrize("missing", ["opa_bundle_key", "opa_bundle_token"])
def test_a_gateway_without_key_or_token_does_not_start(
    bundling: GatewaySettings, services: Services, missing: str
) -> None:
    lacking = bundling.model_copy(update={missing: None})
    with pytest.raises(Refused, match="OPA_BUNDLES needs"), running(lacking, services):
        pass
