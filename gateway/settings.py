"""What an operator can set about the front door, on top of the settings every room shares.

No other module of the gateway reads the environment. A setting must never decide privacy: floors
and budgets are rows or shared settings, not switches of the HTTP layer.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr

from jobs.ingest_source import LIMITS, Limits
from jobs.settings import Settings


class GatewaySettings(Settings):
    """Settings of the HTTP process.

    Attributes:
        host: address the supervisor and `serve` listen on.
        port: TCP port; 0 lets the system choose.
        login_hours: lifetime of a token from `POST /v1/login`.
        event_poll_seconds: how often an open event stream looks for news.
        housekeeping: run outbox relay and reaper inside this process (off for pure API replicas).
        housekeeping_seconds: pause between two passes of it.
        opa_bundle_key: private key that signs policy bundles (`OPA_BUNDLE_KEY`), PEM, P-256.
        opa_bundle_token: what the OPA server shows to fetch them (`OPA_BUNDLE_TOKEN`).
        maximum_dataset_rows: most records in a data file.
        maximum_dataset_bytes: most bytes a data file may unpack to on this machine's disk.
        maximum_record_numbers: most numbers in the features of one record.
        maximum_record_bytes: largest record of a TFRecord file, user of a LEAF file.
        maximum_row_group_bytes: largest column of one row group of a Parquet file.
        admin_email: account made by the first start of `up`.
        admin_password: its password; generated and printed once when empty.
        database_role_prefix: how the names of the PostgreSQL roles begin (`migrate --roles`).
        database_migrator_password: password `migrate --roles` gives the role that owns the schema;
            a role without one cannot log in by password.
        database_api_password: password of the gateway's role.
        database_worker_password: password of the workers' role.
        database_auditor_password: password of the role that only reads.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8081, ge=0, le=65_535)
    login_hours: float = Field(default=24.0, gt=0, le=8760)
    event_poll_seconds: float = Field(default=0.5, gt=0, le=60)
    housekeeping: bool = True
    housekeeping_seconds: float = Field(default=0.5, gt=0, le=60)
    opa_bundle_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("opa_bundle_key", "OPA_BUNDLE_KEY")
    )
    opa_bundle_token: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("opa_bundle_token", "OPA_BUNDLE_TOKEN")
    )
    maximum_dataset_rows: int = Field(default=LIMITS.rows, ge=1)
    maximum_dataset_bytes: int = Field(default=LIMITS.unpacked_bytes, ge=1)
    maximum_record_numbers: int = Field(default=LIMITS.row_elements, ge=1)
    maximum_record_bytes: int = Field(default=LIMITS.record_bytes, ge=1)
    maximum_row_group_bytes: int = Field(default=LIMITS.row_group_bytes, ge=1)
    admin_email: str = "admin@localhost"
    admin_password: SecretStr | None = None
    database_role_prefix: str = Field(default="gateway", pattern=r"^[a-z_][a-z0-9_]{0,40}$")
    database_migrator_password: SecretStr | None = None
    database_api_password: SecretStr | None = None
    database_worker_password: SecretStr | None = None
    database_auditor_password: SecretStr | None = None

    def readable_directories(self) -> tuple[Path, ...]:
        """Resolved server-side directories data may be registered from; none by default."""
        parts = [part for part in self.import_directories.split(":") if part]
        return tuple(Path(part).resolve() for part in parts)

    def data_limits(self) -> Limits:
        """Ceilings on an owner's file."""
        return replace(
            LIMITS,
            file_bytes=self.maximum_upload_bytes,
            rows=self.maximum_dataset_rows,
            unpacked_bytes=self.maximum_dataset_bytes,
            row_elements=self.maximum_record_numbers,
            record_bytes=self.maximum_record_bytes,
            row_group_bytes=self.maximum_row_group_bytes,
        )
