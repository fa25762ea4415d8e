"""What each role may see; for anybody else a thing does not exist.

An owner sees what is hers, a researcher the data sets with an active policy and the populations
behind them, auditor and administrator read everything. `not_found` for somebody else's thing is the
same, word for word, as for one that is not there. This module must never widen a scope for writing:
only the owner changes what is hers.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from accounting.tables import POPULATION, Population
from gateway.tables import USER
from jobs.principal import Principal
from jobs.projects import of_member
from jobs.tables_datasets import Dataset
from jobs.tables_people import PROJECT, PROPOSAL, Proposal
from policies.tables import IS_ACTIVE, PolicyRevision
from privacy_gateway.errors import Refused

_DATASET = Dataset.__table__  # type: ignore[attr-defined]
_REVISION = PolicyRevision.__table__  # type: ignore[attr-defined]

_READERS = ("admin", "auditor")


def datasets(caller: Principal) -> sa.Select[Dataset]:
    """The data sets a caller may see, as a query to narrow further."""
    query = sa.select(Dataset)
    if caller.role in _READERS:
        return query
    if caller.role == "owner":
        return query.where(_DATASET.c.owner_id == caller.id)
    return query.where(_open_to_researchers())


def dataset(session: Session, caller: Principal, dataset_id: str) -> Dataset:
    """One data set the caller may see.

    Raises:
        Refused: `not_found`.
    """
    row = session.scalar(datasets(caller).where(_DATASET.c.id == dataset_id))
    if row is None:
        raise _nothing("dataset")
    return row


def own_dataset(session: Session, caller: Principal, dataset_id: str) -> Dataset:
    """One data set the caller may change.

    Raises:
        Refused: `not_found`.
    """
    row = session.get(Dataset, dataset_id)
    if row is None or row.owner_id != caller.id:
        raise _nothing("dataset")
    return row


def populations(caller: Principal) -> sa.Select[Population]:
    """The populations a caller may see, as a query to narrow further."""
    query = sa.select(Population)
    if caller.role in _READERS:
        return query
    if caller.role == "owner":
        return query.where(POPULATION.c.owner_id == caller.id)
    behind = sa.select(_DATASET.c.population_id).where(_open_to_researchers())
    return query.where(POPULATION.c.id.in_(behind))


def population(session: Session, caller: Principal, population_id: str) -> Population:
    """One population the caller may see.

    Raises:
        Refused: `not_found`.
    """
    row = session.scalar(populations(caller).where(POPULATION.c.id == population_id))
    if row is None:
        raise _nothing("population")
    return row


def own_population(session: Session, caller: Principal, population_id: str) -> Population:
    """One population the caller may change.

    Raises:
        Refused: `not_found`.
    """
    row = session.get(Population, population_id)
    if row is None or row.owner_id != caller.id:
        raise _nothing("population")
    return row


def population_ids(session: Session, caller: Principal) -> list[str] | None:
    """Ids of the caller's populations; None where the caller reads every one."""
    if caller.role in _READERS:
        return None
    return list(session.scalars(populations(caller).with_only_columns(POPULATION.c.id)))


def projects(session: Session, caller: Principal) -> list[str]:
    """Names of the projects the caller is a member of."""
    return list(session.scalars(of_member(caller.id).with_only_columns(PROJECT.c.name)))


def proposals(caller: Principal) -> sa.Select[Proposal]:
    """What waits or waited for a second person: one's own, and one's organisation's to decide."""
    query = sa.select(Proposal)
    if caller.role in _READERS:
        return query
    return query.where(PROPOSAL.c.organisation == caller.organisation)


def researcher_id(session: Session, named: str) -> str:
    """The account of a researcher, named by id or address.

    Raises:
        Refused: `not_found`.
    """
    return researcher(session, named).id


def researcher(session: Session, named: str) -> Principal:
    """A researcher as a caller, named by id or address.

    Raises:
        Refused: `not_found`.
    """
    wanted: Any = USER.c.email == named.lower() if "@" in named else USER.c.id == named
    query = sa.select(USER).where(wanted, USER.c.role == "researcher")
    found = session.execute(query).one_or_none()
    if found is None:
        raise _nothing("researcher")
    return Principal(found.id, found.email, "researcher", found.organisation)


def _open_to_researchers() -> sa.ColumnElement[bool]:
    """An active policy is what opens a data set."""
    active = sa.select(_REVISION.c.dataset_id).where(IS_ACTIVE)
    return sa.and_(_DATASET.c.id.in_(active), _DATASET.c.frozen.is_(False))


def _nothing(what: str) -> Refused:
    return Refused("not_found", f"there is no such {what}, or it is not yours to see")
