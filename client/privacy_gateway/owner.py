"""What a data owner does over HTTP: open a budget, register data, write the policy.

Every method is one request. A file goes up as a stream; nothing is read into memory here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from privacy_gateway.connection import Connection
from privacy_gateway.datasets import Dataset
from privacy_gateway.manifest import Manifest
from privacy_gateway.policy_views import AuditView, RegionView, ReplayView
from privacy_gateway.views import DatasetView, PopulationView

UPLOAD_SECONDS = 3600.0


class Owner:
    """The owner's requests of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create_population(
        self,
        name: str,
        *,
        clients: int,
        epsilon: float,
        delta: float,
        privacy_unit: str = "person",
        reason: str = "opened",
        filter: str = "rdp",  # noqa: A002 - the field's own name
        second_person: bool = False,
    ) -> PopulationView:
        """Declare people and the budget (ε, δ) that protects them, once and for all data.

        `filter` is `rdp` for any mechanism, or `gdp`, exact, for unsampled Gaussians alone. With
        `second_person`, a raise or a looser policy needs another owner's or administrator's word.
        """
        body = {
            "name": name,
            "privacy_unit": privacy_unit,
            "clients": clients,
            "epsilon": float(epsilon),
            "delta": float(delta),
            "reason": reason,
            "filter": filter,
            "second_person": second_person,
        }
        return PopulationView.model_validate(self._connection.post("/v1/populations", body))

    def grant(self, population_id: str, *, epsilon: float, reason: str) -> Any:
        """Raise a budget by ε; a new entry, the past stays."""
        body = {"epsilon": float(epsilon), "reason": reason}
        return self._connection.post(f"/v1/populations/{population_id}/grants", body)

    def freeze(self, population_id: str, *, reason: str) -> Any:
        """Stop every job on a population at its next charge."""
        return self._connection.post(f"/v1/populations/{population_id}/freeze", {"reason": reason})

    def unfreeze(self, population_id: str, *, reason: str) -> Any:
        """Let jobs be charged again."""
        body = {"reason": reason}
        return self._connection.post(f"/v1/populations/{population_id}/unfreeze", body)

    def set_quota(self, population_id: str, researcher: str, *, epsilon: float) -> Any:
        """Limit one researcher's share of a budget."""
        path = f"/v1/populations/{population_id}/quotas/{researcher}"
        return self._connection.call("PUT", path, json={"epsilon": float(epsilon)}, repeatable=True)

    def register_dataset(
        self,
        manifest: Manifest | Mapping[str, Any],
        file: str | Path,
        *,
        on_server: bool = False,
    ) -> Dataset:
        """Register a data file as the next version of a data set.

        Args:
            manifest: what the file holds.
            file: a file here, which is uploaded, or with `on_server` a path at the gateway.
            on_server: the file lies at the gateway already.
        """
        described = (
            manifest.model_dump(mode="json") if isinstance(manifest, Manifest) else dict(manifest)
        )
        if on_server:
            body = {"manifest": described, "path": str(file)}
            answer = self._connection.post("/v1/datasets", body)
        else:
            answer = self._upload(described, Path(file))
        return Dataset(DatasetView.model_validate(answer), self._connection)

    def freeze_dataset(self, dataset_id: str, *, reason: str) -> DatasetView:
        """Withdraw a version of a data set from jobs; its people's budget stays open."""
        return self._set_frozen(dataset_id, "freeze", reason)

    def unfreeze_dataset(self, dataset_id: str, *, reason: str) -> DatasetView:
        """Offer a withdrawn version again."""
        return self._set_frozen(dataset_id, "unfreeze", reason)

    def draft_policy(
        self, dataset_id: str, source: str, *, tests: str = "", reason: str = "draft"
    ) -> dict[str, Any]:
        """Store a policy as the next draft revision; answers its number and findings."""
        body = {"source": source, "tests": tests, "reason": reason}
        answer = self._connection.post(f"/v1/datasets/{dataset_id}/policies", body)
        return dict(answer)

    def activate_policy(self, dataset_id: str, number: int) -> dict[str, Any]:
        """Make a revision the one that decides; refused unless its checks and tests pass.

        Answers the revision, or a proposal (`kind`, `state`) where a second person has to agree.
        """
        path = f"/v1/datasets/{dataset_id}/policies/{number}/activate"
        return dict(self._connection.post(path) or {})

    def dry_run(
        self,
        dataset_id: str,
        number: int,
        job: Mapping[str, Any] | str,
        *,
        as_researcher: str | None = None,
    ) -> dict[str, Any]:
        """What a revision would decide about a job, or about a past one's id, without any effect.

        Asked in the name of `as_researcher` (id or address), without it in that of a sample
        researcher of your organisation who has neither quota nor history.
        """
        path = f"/v1/datasets/{dataset_id}/policies/{number}/dry-run"
        body: dict[str, Any] = {"job": job if isinstance(job, str) else dict(job)}
        if as_researcher is not None:
            body["as_researcher"] = as_researcher
        return dict(self._connection.post(path, body, repeatable=True))

    def roll_back_policy(self, dataset_id: str, number: int, *, reason: str) -> dict[str, Any]:
        """Let a superseded text decide again, as a new revision; or propose it, as activation."""
        path = f"/v1/datasets/{dataset_id}/policies/{number}/rollback"
        return dict(self._connection.post(path, {"reason": reason}))

    def shadow_policy(self, dataset_id: str, number: int) -> dict[str, Any]:
        """Let a tested draft run in the active revision's shadow from now on."""
        path = f"/v1/datasets/{dataset_id}/policies/{number}/shadow"
        return dict(self._connection.post(path))

    def replay_policy(
        self, dataset_id: str, number: int, *, last: int = 1000, since_shadow: bool = False
    ) -> ReplayView:
        """Which of the last decisions a revision would make otherwise, newly allowed first."""
        query = f"last={last}" + ("&since=shadow" if since_shadow else "")
        path = f"/v1/datasets/{dataset_id}/policies/{number}/replay?{query}"
        return ReplayView.model_validate(self._connection.get(path))

    def audit_policy(self, dataset_id: str, *, last: int = 1000) -> AuditView:
        """Ask the last decisions again, byte for byte, of the revisions that made them."""
        path = f"/v1/datasets/{dataset_id}/policies/audit?last={last}"
        return AuditView.model_validate(self._connection.post(path, repeatable=True))

    def policy_region(
        self, dataset_id: str, number: int, asked: Mapping[str, Any] | None = None
    ) -> RegionView:
        """What a revision and the remaining budget admit: rounds × noise × cohort.

        Args:
            dataset_id: whose policy.
            number: which revision.
            asked: `job` (a request or a past job's id), `as_researcher`, and the axes `rounds`,
                `noise_multipliers`, `clients_per_round`; each may be left out.
        """
        path = f"/v1/datasets/{dataset_id}/policies/{number}/region"
        answer = self._connection.post(path, dict(asked or {}), repeatable=True)
        return RegionView.model_validate(answer)

    def policy_region_text(
        self, dataset_id: str, number: int, form: str, asked: Mapping[str, Any] | None = None
    ) -> str:
        """The same as a `table` for terminals or as an `svg` plot."""
        path = f"/v1/datasets/{dataset_id}/policies/{number}/region?format={form}"
        return self._connection.text("POST", path, dict(asked or {}))

    def publish_policy(
        self, dataset_id: str, source: str, *, tests: str = "", reason: str = "published"
    ) -> dict[str, Any]:
        """Draft and activate in one go; the draft stays when the activation is refused."""
        draft = self.draft_policy(dataset_id, source, tests=tests, reason=reason)
        return self.activate_policy(dataset_id, int(draft["number"]))

    def _set_frozen(self, dataset_id: str, verb: str, reason: str) -> DatasetView:
        answer = self._connection.post(f"/v1/datasets/{dataset_id}/{verb}", {"reason": reason})
        return DatasetView.model_validate(answer)

    def _upload(self, manifest: Mapping[str, Any], file: Path) -> Any:
        with file.open("rb") as stream:
            return self._connection.call(
                "POST",
                "/v1/datasets",
                data={"manifest": json.dumps(manifest)},
                files={"file": (file.name, stream, "application/octet-stream")},
                timeout=UPLOAD_SECONDS,
            )
