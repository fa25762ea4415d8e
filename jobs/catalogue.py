"""Registers dataset versions and finds them again.

A version is immutable: correcting a file means registering the next version, with its own policies.
The catalogue must never open a store on behalf of a researcher, and never tell the number of
somebody's records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting import blocks, ledger
from accounting.tables import Population
from jobs.ingest import Ingested, ingest
from jobs.ingest_source import LIMITS, Limits
from jobs.ingest_split import split_key
from jobs.members import member_key
from jobs.tables_datasets import Dataset
from kit import clock, ids
from privacy_gateway.errors import Refused, invalid
from privacy_gateway.manifest import Manifest

FOLDER = "datasets"

_DATASET = Dataset.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a file must hold and what its reader must know, read before the slow part begins."""

    owner_id: str
    population_id: str
    clients: int


def expected(session: Session, *, manifest: Manifest, owner_id: str) -> Expected:
    """Whose file it is and how many people it must hold.

    Raises:
        Refused: `not_found` as `register`.
    """
    population = _population(session, manifest, owner_id)
    return Expected(owner_id, population.id, _clients(session, manifest, population))


def stage(
    wanted: Expected,
    *,
    manifest: Manifest,
    source: Path,
    state_dir: Path,
    limits: Limits = LIMITS,
) -> Ingested:
    """Do the slow part of `register` — reading and sealing the file — outside a transaction.

    It may take an hour, in which no connection is held. Give the result to `register`.

    Raises:
        Refused: as `register`.
    """
    return ingest(
        manifest,
        source,
        clients=wanted.clients,
        directory=state_dir / FOLDER,
        limits=limits,
        member_key=(
            None if manifest.block is None else member_key(state_dir, wanted.population_id)
        ),
        split_key=(
            None if manifest.test_fraction is None else split_key(state_dir, wanted.owner_id)
        ),
    )


def register(
    session: Session,
    *,
    manifest: Manifest,
    source: Path | Ingested,
    owner_id: str,
    state_dir: Path,
    now: datetime,
    new_id: Callable[[str], str] = ids.new_id,
) -> Dataset:
    """Make a new version of the data set `manifest.name`.

    Args:
        session: open transaction; not committed here.
        manifest: what the file holds; names the population its people belong to.
        source: the file, or what `stage` made of it (then nothing slow happens here).
        owner_id: the account that owns both population and data set.
        state_dir: the gateway's state directory; stores land below `datasets/`.
        now: time of registration.
        new_id: maker of identifiers.

    Returns:
        The new row, flushed.

    Raises:
        Refused: `invalid_request` naming `manifest.…` or `source`; `too_large`. An unknown
            population and another owner's are the same `not_found`.
    """
    population = _population(session, manifest, owner_id)
    if isinstance(source, Path):
        wanted = expected(session, manifest=manifest, owner_id=owner_id)
        source = stage(wanted, manifest=manifest, source=source, state_dir=state_dir)
    clients = _clients(session, manifest, population)
    if source.clients != clients:
        raise invalid(
            "manifest.population",
            "the staged file was counted for another population",
            value=source.clients,
            limit=clients,
        )
    paths = (
        _kept(source.store, state_dir),
        None if source.test_store is None else _kept(source.test_store, state_dir),
    )
    row = _row(manifest, source, paths, owner_id, new_id("ds"), clock.micros(now))
    row.version = 1 + _latest(session, owner_id, manifest.name)
    session.add(row)
    session.flush()
    if manifest.block is not None:
        blocks.enrol(
            session,
            population_id=population.id,
            name=manifest.block,
            dataset_id=row.id,
            hashes=source.members or (),
            key_id=member_key(state_dir, population.id).id,
            actor_id=owner_id,
            now=now,
        )
    return row


def get(session: Session, dataset_id: str) -> Dataset:
    """One version; `not_found` when there is none."""
    row = session.get(Dataset, dataset_id)
    if row is None:
        raise Refused("not_found", "there is no such dataset, or it is not yours to see")
    return row


def has_public_test(row: Dataset) -> bool:
    """Whether there are test records that the owner declared public when registering.

    Versions from before the word existed were registered with public ones only.
    """
    return row.test_examples > 0 and bool(row.manifest.get("test_public", True))


def stores(row: Dataset, state_dir: Path) -> tuple[Path, Path | None]:
    """Where a version's stores lie on this machine: its people's, and the public test set's.

    Test records that are not public have no place here: nothing may measure on them. Rows name
    stores below `datasets/` of the state directory, so that one that was moved or restored
    elsewhere still finds them; an absolute name is taken as it is.
    """
    home = state_dir.resolve() / FOLDER
    test = row.test_store_path if has_public_test(row) else None
    return home / row.store_path, None if test is None else home / test


def set_frozen(
    session: Session,
    dataset_id: str,
    frozen: bool,
    *,
    reason: str,
    actor_id: str,
    now: datetime,
) -> Dataset:
    """Withdraw a version from jobs, or offer it again; contents never change.

    No new job may name a frozen version, and running ones end before their next block of rounds.
    A `note` in the ledger of its people says who did it and why.

    Raises:
        Refused: `not_found`; `conflict` when it is so already; `invalid_request` naming `reason`.
    """
    verb = "freeze" if frozen else "unfreeze"
    # The note locks the population: admissions see the version either before or after.
    ledger.note(
        session,
        population_id=get(session, dataset_id).population_id,
        reason=reason,
        actor_id=actor_id,
        facts={"dataset": dataset_id, "action": f"dataset {verb}"},
        now=now,
    )
    row = session.get_one(Dataset, dataset_id, populate_existing=True)
    if row.frozen == frozen:
        state = "frozen" if frozen else "not frozen"
        raise Refused("conflict", f"data set {dataset_id} is already {state}")
    row.frozen = frozen
    session.flush()
    return row


def _population(session: Session, manifest: Manifest, owner_id: str) -> Population:
    """The owner's population; nobody learns of another owner's."""
    population = session.get(Population, manifest.population)
    if population is None or population.owner_id != owner_id:
        fault = invalid(
            "manifest.population", "names no population of yours", value=manifest.population
        )
        raise Refused("not_found", fault.detail, errors=fault.errors)
    return population


def _clients(session: Session, manifest: Manifest, population: Population) -> int:
    """The public number of people the file must hold: the population's, or its block's."""
    if manifest.block is None:
        return population.clients
    return blocks.block(session, population.id, manifest.block).clients


def _latest(session: Session, owner_id: str, name: str) -> int:
    """Highest version of a name so far, 0 for none."""
    query = sa.select(sa.func.max(_DATASET.c.version)).where(
        _DATASET.c.owner_id == owner_id, _DATASET.c.name == name
    )
    return session.scalar(query) or 0


def _kept(store: Path, state_dir: Path) -> str:
    """How a row names a store, see `stores`."""
    home = (state_dir / FOLDER).resolve()
    found = store.resolve()
    return (found.relative_to(home) if found.is_relative_to(home) else found).as_posix()


def _row(
    manifest: Manifest,
    made: Ingested,
    paths: tuple[str, str | None],
    owner_id: str,
    dataset_id: str,
    created_at: int,
) -> Dataset:
    return Dataset(
        id=dataset_id,
        name=manifest.name,
        population_id=manifest.population,
        owner_id=owner_id,
        version=1,
        digest=made.digest,
        clients=made.clients,
        examples=made.examples,
        assets=_assets(manifest, made, dataset_id),
        feature_shape=list(made.feature_shape),
        feature_dtype=made.feature_dtype,
        feature_scale=made.feature_scale,
        label_dtype=made.label_dtype,
        classes=manifest.classes,
        store_path=paths[0],
        test_store_path=paths[1],
        test_examples=made.test_examples,
        tags=list(manifest.tags),
        manifest=manifest.model_dump(mode="json"),
        created_at=created_at,
    )


def _assets(manifest: Manifest, made: Ingested, dataset_id: str) -> list[dict[str, Any]]:
    """What a researcher can point at: the features (first) and the label."""
    single = manifest.format != "csv" and len(manifest.features) == 1
    features = manifest.features[0] if single else "features"
    described = [
        (features, made.feature_dtype, list(made.feature_shape)),
        (manifest.label, made.label_dtype, []),
    ]
    return [
        {"id": _asset_id(dataset_id, name), "name": name, "dtype": dtype, "shape": shape}
        for name, dtype, shape in described
    ]


def _asset_id(dataset_id: str, name: str) -> str:
    """Stable and meaningless: the same asset of the same version always has the same id."""
    return f"ast_{hashlib.sha256(f'{dataset_id}/{name}'.encode()).hexdigest()[:26]}"
