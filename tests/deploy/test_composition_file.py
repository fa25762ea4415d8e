"""What docker-compose.yml and the Dockerfile promise, checked without an engine."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.roles import ROLES
from gateway.settings import GatewaySettings
from jobs.settings import PREFIX
from policies.bundle import BundleKey
from policies.engine import Revision
from policies.errors import Fault
from policies.opa import BUNDLE_NAME, OpaEngine
from tests.support import questions
from tests.support.engines import opa_configuration, opa_server
from tests.support.servers import REPOSITORY

COMPOSITION: dict[str, Any] = yaml.safe_load(
    (REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8")
)
SERVICES: dict[str, dict[str, Any]] = COMPOSITION["services"]
OURS = {"gateway", "worker", "migrate"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_locked_down(name: str) -> None:
    """Read-only, no capability, no way to gain one, an image that can be replaced."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["image"].startswith("${")
    assert not service.get("privileged")
    assert name in OURS or service["user"] not in {"root", "0"}
    assert name in OURS or "healthcheck" in service


def test_only_the_gateway_is_reached_from_outside_and_only_from_this_machine() -> None:
    """One published port, on the loopback address."""
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"gateway": ["${GATEWAY_ADDRESS:-127.0.0.1:8081}:8081"]}


def test_all_others_are_on_networks_that_lead_nowhere() -> None:
    """`internal` networks have no route out; the gateway's own does not masquerade."""
    networks = COMPOSITION["networks"]
    outside = {name for name, network in networks.items() if not network.get("internal")}
    assert outside == {"front"}
    masquerade = "com.docker.network.bridge.enable_ip_masquerade"
    assert networks["front"]["driver_opts"] == {masquerade: "false"}
    on_front = {name for name, service in SERVICES.items() if "front" in service["networks"]}
    assert on_front == {"gateway"}


def test_servers_do_not_share_a_network() -> None:
    """A taken broker finds neither the database nor the policy server beside it."""
    homes = {name: set(SERVICES[name]["networks"]) for name in ("postgres", "redis", "opa")}
    assert homes == {"postgres": {"database"}, "redis": {"broker"}, "opa": {"policy"}}


def test_every_variable_is_a_setting() -> None:
    """A misspelt variable would be ignored in silence."""
    fields = GatewaySettings.model_fields
    known = {f"{PREFIX}{name.upper()}" for name in fields}
    known |= {
        choice
        for field in fields.values()
        for choice in getattr(field.validation_alias, "choices", [])
    }
    for name in OURS:
        for variable in SERVICES[name]["environment"]:
            assert variable.removesuffix("_FILE") in known, variable


def test_the_witness_is_on_a_volume_of_its_own_that_only_the_gateway_writes() -> None:
    """A restored state or database volume must not bring the witness back with it."""
    path = SERVICES["gateway"]["environment"]["PRIVACY_GATEWAY_WITNESS_PATH"]
    state = SERVICES["gateway"]["environment"]["PRIVACY_GATEWAY_STATE"]
    folder = str(Path(path).parent)
    assert not Path(path).is_relative_to(state)
    assert SERVICES["worker"]["environment"]["PRIVACY_GATEWAY_WITNESS_PATH"] == path
    mounts = {
        name: [mount for mount in service.get("volumes", []) if mount.startswith("witness:")]
        for name, service in SERVICES.items()
    }
    assert {name: found for name, found in mounts.items() if found} == {
        "gateway": [f"witness:{folder}"],
        "worker": [f"witness:{folder}:ro"],
    }
    assert "witness" in COMPOSITION["volumes"]
    # A new volume takes its owner from the image.
    assert folder in (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")


def test_secrets_come_by_file() -> None:
    """No password, token or URL with one among the variables."""
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if any(word in variable for word in ("PASSWORD", "TOKEN", "DATABASE_URL")):
                assert variable.endswith("_FILE"), (name, variable)
                assert value.removeprefix("/run/secrets/") in COMPOSITION["secrets"]


def test_gateway_and_workers_are_roles_of_the_database_and_only_migrate_is_more() -> None:
    """The superuser's URL and the roles' passwords are handed to `migrate` alone."""
    urls = {name: SERVICES[name]["environment"]["DATABASE_URL_FILE"] for name in OURS}
    assert urls == {
        "gateway": "/run/secrets/database_url_api",
        "worker": "/run/secrets/database_url_worker",
        "migrate": "/run/secrets/database_url",
    }
    assert SERVICES["migrate"]["command"] == ["privacy-gateway", "migrate", "--roles"]
    for name in ("gateway", "worker"):
        handed = {secret for secret in SERVICES[name]["secrets"] if "database" in secret}
        assert handed == {urls[name].rsplit("/", 1)[1]}


def test_whoever_needs_the_schema_waits_for_it() -> None:
    """Gateway and worker start after `migrate` has ended well."""
    for name in ("gateway", "worker"):
        condition = SERVICES[name]["depends_on"]["migrate"]["condition"]
        assert condition == "service_completed_successfully"


@pytest.mark.parametrize("name", ["bootstrap", "build", "gateway", "worker"])
def test_images_are_built_from_locks_with_hashes(name: str) -> None:
    """Every requirement of an image names a version and its hashes, and no host."""
    lock = (REPOSITORY / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    entries = [entry for entry in lock.replace("\\\n", " ").splitlines() if entry.strip()]
    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)
    assert "://" not in lock


def test_the_gateway_has_no_tensorflow_in_its_lock() -> None:
    """The front door starts in a second and cannot run a model."""
    lock = (REPOSITORY / "requirements" / "gateway.txt").read_text(encoding="utf-8")
    assert "tensorflow" not in lock
    assert "keras" not in lock


def test_who_may_talk_to_the_policy_server(opa_binary: str) -> None:
    """The tests beside deploy/opa/authz.rego pass on the real `opa`."""
    folder = REPOSITORY / "deploy" / "opa"
    done = subprocess.run(
        [opa_binary, "test", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_policy_server_refuses_strangers_and_lax_questions(
    opa_binary: str, tmp_path: Path
) -> None:
    """A real `opa` with the composition's own options; the gateway's engine gets through."""
    told = SERVICES["opa"]["command"]
    options = [word for word in told if word.startswith(("--authentication", "--authorization"))]
    assert options == ["--authentication=token", "--authorization=basic"]
    access = tmp_path / "access.json"
    digest = hashlib.sha256(b"right").hexdigest()
    access.write_text(json.dumps({"gateway_access": {"token_sha256": digest}}), encoding="utf-8")
    rules = str(REPOSITORY / "deploy" / "opa" / "authz.rego")
    strict = {"strict-builtin-errors": "true", "provenance": "true"}
    question = questions.question().canonical
    revision = Revision.of_text(questions.example("price_cap")[0])
    with opa_server(opa_binary, tmp_path, options=[*options, rules, str(access)]) as url:
        right, wrong = OpaEngine(url, "right"), OpaEngine(url, "wrong")
        assert right.health().ok
        assert right.evaluate(revision, question, 20.0).answer["allow"] is True
        assert wrong.evaluate(revision, question, 20.0).fault is Fault.UNREACHABLE
        for without in strict:
            params = {name: value for name, value in strict.items() if name != without}
            asked = httpx.post(
                f"{url}/v1/data/revisions",
                params=params,
                headers={"Authorization": "Bearer right"},
                json={"input": {}},
            )
            assert asked.status_code == 401, without
        right.close()
        wrong.close()


def test_made_secrets_belong_together_and_are_kept(tmp_path: Path) -> None:
    """The second run changes nothing; the policy server is told a hash, never the token."""
    environment = {"SECRETS": str(tmp_path / "secrets"), "PATH": "/usr/bin:/bin"}
    command = [str(REPOSITORY / "deploy" / "secrets.sh")]
    read = []
    for _ in range(2):
        subprocess.run(command, env=environment, check=True, capture_output=True)
        folder = tmp_path / "secrets"
        read.append({file.name: file.read_text(encoding="ascii") for file in folder.iterdir()})
    first, second = read
    assert first == second
    assert first["postgres_password"] in first["database_url"]
    prefix = GatewaySettings().database_role_prefix
    for role in ROLES:
        url = first[f"database_url_{role}"]
        assert f"//{prefix}_{role}:{first[f'database_{role}_password']}@" in url
    assert first["opa_token"] not in first["opa_access.json"]
    key = BundleKey(first["opa_bundle_key"].encode())
    wanted = opa_configuration(
        "http://gateway:8081", "v1/bundles/policies", first["opa_bundle_token"], key
    )
    wanted["bundles"][BUNDLE_NAME]["polling"] = {"min_delay_seconds": 1, "max_delay_seconds": 2}
    assert json.loads(first["opa_config.json"]) == wanted
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
