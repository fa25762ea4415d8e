"""The dataset table: what is known of a registered file without opening it.

Every registration is a new row (a version) that is never changed afterwards, except for the
owner's withdrawal flag. The row must never hold a record, a client's id or anything else computed
from contents, beyond the public constants the owner declared and the digest.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from kit.guards import Guard, protect


class Dataset(SQLModel, table=True):
    """One immutable version of a data set.

    `feature_shape` is the shape of one example's features, `feature_scale` the public factor a
    reader multiplies them with. `store_path` and `test_store_path` are directories of `kit.ragged`
    with the columns `features` and `label`, named below `datasets/` of the state directory
    (`jobs.catalogue.stores`); the test store is public and holds one client.
    `created_at` is in microseconds since 1970 UTC. A `frozen` version is withdrawn: no new job may
    name it.
    """

    __tablename__ = "dataset"
    __table_args__ = (
        sa.UniqueConstraint("owner_id", "name", "version", name="dataset_version_once"),
        sa.CheckConstraint("version >= 1", name="dataset_version_from_one"),
        sa.CheckConstraint("clients >= 1", name="dataset_has_clients"),
        sa.CheckConstraint("examples >= 0", name="dataset_examples_counted"),
        sa.CheckConstraint("test_examples >= 0", name="dataset_test_examples_counted"),
        sa.CheckConstraint("classes IS NULL OR classes >= 2", name="dataset_two_classes"),
        sa.CheckConstraint("length(digest) = 64", name="dataset_digest_is_sha256"),
        sa.CheckConstraint("feature_scale > 0", name="dataset_scaled_up"),
        sa.CheckConstraint(
            "length(name) > 0 AND length(owner_id) > 0 AND length(store_path) > 0",
            name="dataset_named",
        ),
        sa.CheckConstraint(
            "(test_store_path IS NULL) = (test_examples = 0)", name="dataset_test_store_if_any"
        ),
    )

    id: str = Field(primary_key=True, max_length=100)
    name: str = Field(max_length=200)
    population_id: str = Field(foreign_key="population.id", index=True, max_length=100)
    owner_id: str = Field(max_length=100)
    version: int
    digest: str = Field(max_length=64)
    clients: int = Field(sa_type=sa.BigInteger)
    examples: int = Field(sa_type=sa.BigInteger)
    assets: list[dict[str, Any]] = Field(sa_type=sa.JSON)
    feature_shape: list[int] = Field(sa_type=sa.JSON)
    feature_dtype: str = Field(max_length=20)
    feature_scale: float = Field(default=1.0, sa_type=sa.Double)
    label_dtype: str = Field(max_length=20)
    classes: int | None = None
    store_path: str
    test_store_path: str | None = None
    test_examples: int = Field(default=0, sa_type=sa.BigInteger)
    tags: list[str] = Field(sa_type=sa.JSON)
    manifest: dict[str, Any] = Field(sa_type=sa.JSON)
    frozen: bool = False
    created_at: int = Field(sa_type=sa.BigInteger)


protect(
    Dataset.__table__,  # type: ignore[attr-defined]
    Guard(
        "dataset",
        (
            "id",
            "name",
            "population_id",
            "owner_id",
            "version",
            "digest",
            "clients",
            "examples",
            "feature_scale",
            "manifest",
            "created_at",
        ),
    ),
)
