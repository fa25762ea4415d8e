"""Every setting of the system, read once from the environment, with defaults for one machine.

Settings are passed on inside `jobs.services.Services`; no other module may read the environment.
A secret may come by file: `DATABASE_URL_FILE=/run/secrets/database_url` holds the value of
`DATABASE_URL`, and setting both is an error rather than a guess.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from privacy_gateway.errors import FieldError, Refused
from privacy_gateway.faults import refusal_of

PREFIX = "PRIVACY_GATEWAY_"
SQLITE_FILE = "gateway.sqlite3"

_TRAINER = r"[A-Za-z0-9_.-]{1,100}=[A-Za-z_][\w.]*:[A-Za-z_]\w*"
TRAINERS = rf"^({_TRAINER}(,{_TRAINER})*)?$"

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


Loaded = TypeVar("Loaded", bound="Settings")


class Settings(BaseSettings):
    """What an operator can set. Variables are `PRIVACY_GATEWAY_<FIELD>` unless the field says more.

    Attributes:
        state_dir: directory of everything this machine keeps (`PRIVACY_GATEWAY_STATE`).
        database_url: SQLAlchemy URL (`DATABASE_URL`); SQLite below `state_dir` when empty.
        redis_url: broker of hints (`REDIS_URL`); empty for the supervisor's embedded one.
        opa_url: base URL of an OPA server (`OPA_URL`); empty for the embedded engine.
        opa_token: bearer token for that server (`OPA_TOKEN`).
        opa_bundles: ask only what the OPA server took from a signed bundle (`OPA_BUNDLES`).
        opa_binary: an `opa` program that reads policies a second time before they are activated; by
            default the one on PATH, if there is one.
        policy_shadow: ask the embedded engine too; where the answers differ, deny and alarm.
        policy_processes: children of the embedded policy engine.
        policy_deadline_seconds: longest wait for one decision; later is `policy_unavailable`.
        group_commit: admit jobs by one writer thread, many in one commit, instead of each in a
            transaction under the budget's row lock.
        group_commit_largest: most admissions of one commit.
        group_commit_waiting: beyond so many waiting admissions the next is refused as
            `unavailable`.
        minimum_clients_per_round: floor no policy can relax.
        minimum_noise_multiplier: floor no policy can relax.
        minimum_population_clients: floor on the population's public size.
        rounds_per_block: most rounds charged by one ledger entry; a fifth of the job where that is
            fewer. A worker that dies loses those of its block that are not published yet.
        block_seconds: about how long a block of rounds is meant to take. Rounds that are shorter
            share a charge, longer ones have one each. Cancel, freeze and a new policy take hold
            between blocks.
        publish_seconds: rounds are published as one, as the last of them, until so much time has
            passed since the last publication, which is looked at while the next round of the block
            is computed; what waits is published when its block ends. 0 publishes every round by
            itself. A worker that dies loses what waits.
        lease_seconds: how long a worker may be silent before its job is given to another.
        reservation_seconds: how long an admitted job may wait for people or a worker before it
            expires.
        proposal_hours: how long an act that needs a second person waits for one.
        maximum_attempts: claims of one job before it fails for good.
        rehint_seconds: a queued job is announced again after this long without a worker.
        round_deadline_seconds: longest computation of one round inside the sandbox.
        sandbox_memory_bytes: address-space limit of the sandbox.
        sandbox_start: `zygote` forks each sandbox from a warm parent, `exec` starts TensorFlow
            anew for each, which takes seconds and shares not even the layout of memory.
        sandbox_bubblewrap: put namespaces around sandboxes where bubblewrap is installed and
            allowed to.
        insecure_sandbox: **insecure**: train even where the kernel has no Landlock or no seccomp.
        isolation_group_clients: most people one sandbox sees where a policy obliges to
            `per_client_group`.
        maximum_model_parameters: cap on the parameters of a model.
        maximum_stored_weights_bytes: most bytes of first weights that one researcher keeps here.
        maximum_flops_per_round: cap on the training arithmetic of one round.
        maximum_upload_bytes: largest data file taken over HTTP.
        import_directories: server-side directories data may be registered from, `:`-separated.
        trainers: local training that is installed beside the algorithms' own, as
            `name=module:Class` separated by commas; classes of
            `worker.training.algorithms.custom.Trainer` in packages of the worker's environment.
            Nothing else is ever imported into a sandbox.
        witness_path: file of the log's newest checkpoint, best on another volume than the
            database; `witness/checkpoint` below `state_dir` when unset. A database that is older
            than this file is not served.
        alive_file: a worker touches it whenever the database took its sign of life; a container's
            health check looks at its age. None for no such file.
        log_level: least serious log line that is written.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", populate_by_name=True)

    state_dir: Path = Field(
        default=Path("state"), validation_alias=AliasChoices("state_dir", f"{PREFIX}STATE")
    )
    database_url: str = Field(
        default="", validation_alias=AliasChoices("database_url", "DATABASE_URL")
    )
    redis_url: str = Field(default="", validation_alias=AliasChoices("redis_url", "REDIS_URL"))
    opa_url: str = Field(default="", validation_alias=AliasChoices("opa_url", "OPA_URL"))
    opa_token: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("opa_token", "OPA_TOKEN")
    )
    opa_bundles: bool = Field(
        default=False, validation_alias=AliasChoices("opa_bundles", "OPA_BUNDLES")
    )

    opa_binary: Path | None = None
    policy_shadow: bool = False
    policy_processes: int = Field(default=2, ge=1, le=64)
    policy_deadline_seconds: float = Field(default=0.5, gt=0, le=30)

    group_commit: bool = True
    group_commit_largest: int = Field(default=64, ge=1, le=1000)
    group_commit_waiting: int = Field(default=1000, ge=1)

    minimum_clients_per_round: int = Field(default=2, ge=1)
    minimum_noise_multiplier: float = Field(default=0.3, ge=0.01)
    minimum_population_clients: int = Field(default=2, ge=1)

    rounds_per_block: int = Field(default=20, ge=1)
    block_seconds: float = Field(default=1.0, gt=0, le=3600)
    publish_seconds: float = Field(default=0.2, ge=0, le=3600)
    lease_seconds: float = Field(default=60.0, gt=0, le=21_600)
    reservation_seconds: float = Field(default=7 * 86_400.0, gt=0)
    proposal_hours: float = Field(default=72.0, gt=0, le=8760)
    maximum_attempts: int = Field(default=5, ge=1)
    rehint_seconds: float = Field(default=30.0, gt=0)
    round_deadline_seconds: float = Field(default=600.0, gt=0)
    sandbox_memory_bytes: int = Field(default=8 << 30, ge=1 << 28)
    sandbox_start: Literal["zygote", "exec"] = "zygote"
    sandbox_bubblewrap: bool = True
    insecure_sandbox: bool = False
    isolation_group_clients: int = Field(default=16, ge=1)

    maximum_model_parameters: int = Field(default=20_000_000, ge=1)
    maximum_stored_weights_bytes: int = Field(default=1 << 30, ge=1)
    maximum_flops_per_round: int = Field(default=10**15, ge=1)
    maximum_upload_bytes: int = Field(default=1 << 30, ge=1)
    import_directories: str = ""
    trainers: str = Field(default="", pattern=TRAINERS)

    witness_path: Path | None = None
    alive_file: Path | None = None
    log_level: Annotated[LogLevel, BeforeValidator(str.upper)] = "INFO"

    def database(self) -> str:
        """The database URL in force: the configured one, else SQLite below `state_dir`."""
        return self.database_url or f"sqlite:///{self.state_dir / SQLITE_FILE}"

    def has_database(self) -> bool:
        """Whether one is configured, or there is an SQLite file below `state_dir`."""
        return bool(self.database_url) or (self.state_dir / SQLITE_FILE).exists()

    def trainer(self, name: str) -> str | None:
        """Where an installed trainer is, `module:Class`; None for one that is not installed."""
        pairs = (part.partition("=") for part in self.trainers.split(",") if part)
        return {key: place for key, _, place in pairs}.get(name)

    def witness(self) -> Path:
        """The witness file in force."""
        return self.witness_path or self.state_dir / "witness" / "checkpoint"

    def key_directory(self) -> Path:
        """Where the private keys of the log are."""
        return self.state_dir / "keys"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the environment, then `…_FILE`; no dotenv, no guessing."""
        return init_settings, env_settings, _FromFiles(settings_cls)


def load(kind: type[Loaded], given: Mapping[str, Any] | None = None) -> Loaded:
    """The settings of a process, read once.

    Args:
        kind: `Settings`, or a room's own extension of it.
        given: what a command line says, before the environment.

    Raises:
        Refused: `invalid_request` naming the setting, to be explained by the command.
    """
    try:
        return kind.model_validate(dict(given or {}))
    except ValidationError as error:
        raise refusal_of(error) from None
    except (OSError, ValueError) as error:  # a file that cannot be read, or named beside a value
        fault = FieldError("settings", str(error))
        raise Refused("invalid_request", f"settings: {error}", errors=[fault]) from None


class _FromFiles(PydanticBaseSettingsSource):
    """Reads `<VARIABLE>_FILE` for every variable that is a setting."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The text of the named file without its last line break, or None."""
        for variable in _variables(field, field_name):
            path = os.environ.get(f"{variable}_FILE")
            if path is None:
                continue
            if variable in os.environ:
                raise ValueError(f"set either {variable} or {variable}_FILE, not both")
            return Path(path).read_text(encoding="utf-8").rstrip("\r\n"), field_name, False
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """All fields that have a file."""
        found = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, _ = self.get_field_value(field, name)
            if value is not None:
                found[key] = value
        return found


def variables(model: type[Settings]) -> frozenset[str]:
    """Environment variables of all settings, without their `…_FILE` forms."""
    fields = model.model_fields.items()
    return frozenset(variable for name, field in fields for variable in _variables(field, name))


def _variables(field: FieldInfo, name: str) -> list[str]:
    """Environment variables of a field, upper case."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return [choice for choice in alias.choices if isinstance(choice, str) and choice.isupper()]
    return [f"{PREFIX}{name.upper()}"]
