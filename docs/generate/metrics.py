"""The page of metrics: every family that `/metrics` exposes, read back from its own text."""

from __future__ import annotations

import tempfile
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from docs.generate.markdown import code, document, table
from gateway import schema
from gateway.observe import Metrics
from kit.db import Database

INTRODUCTION = """
# Metrics

`GET /metrics` answers the Prometheus exposition format. It needs no token, so it holds no name and
no id: routes are templates, a path that no route has counts as `unmatched`. Nothing that depends on
raw data is counted. Each gateway process counts its own requests; the numbers of the queue come
from the database and are the same at every process.
"""


def page() -> str:
    """The page."""
    rows = [
        (code(name), kind, ", ".join(code(label) for label in labels), text)
        for name, kind, labels, text in families()
    ]
    return document(INTRODUCTION, table(["metric", "type", "labels", "meaning"], rows))


def families() -> list[tuple[str, str, tuple[str, ...], str]]:
    """Name, type, labels and help of every family, `…_created` times left out."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'metrics.sqlite3'}")
        schema.upgrade(database)
        metrics = Metrics(database)
        # A family without a sample has no labels to read back.
        metrics.requests.labels("GET", "/healthz", "200").inc()
        metrics.seconds.labels("/healthz").observe(0.0)
        text = metrics.text().decode()
        database.close()
    found = []
    for family in text_string_to_metric_families(text):
        if family.name.endswith("_created"):
            continue
        labels = tuple(dict.fromkeys(n for s in family.samples for n in s.labels if n != "le"))
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found.append((name, family.type, labels, family.documentation))
    return found
