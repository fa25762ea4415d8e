"""The columns of the ledger's export, from the one place that defines them."""

from __future__ import annotations

from docs.generate.markdown import table
from privacy_gateway import rdp, tabular

_INTRODUCTION = """# Columns of the ledger's export

`privacy-gateway ledger export` writes JSON lines, CSV or Parquet. The three hold the same: a row of
CSV or Parquet stands for one line of the JSON-lines export, in the same order, and leads back to it
byte for byte. [How to use them](../howto/auditor/exports.md).
"""
_TYPES = {
    tabular.TEXT: ("text", "string"),
    tabular.NUMBER: ("decimal text", "int64"),
    tabular.VECTOR: ("JSON array of integers", "list of int64"),
    tabular.FLAG: ("`true`, `false`", "bool"),
}
_END = """An empty cell of CSV, a null of Parquet: the column has no meaning for the row. Vectors
have one number an order, in pico-nats (1e-12 nat), at the orders {orders}. In CSV, text in `actor`,
`researcher`, `job`, `purpose`, `project` and `dataset` that a spreadsheet would run as a formula is
led by an apostrophe; `leaf` never is.
"""


def page() -> str:
    """The page."""
    rows = [(f"`{name}`", *_TYPES[kind], meaning) for name, kind, meaning in tabular.COLUMNS]
    orders = ", ".join(f"{order:g}" for order in rdp.ORDERS)
    body = table(("column", "CSV", "Parquet", "meaning"), rows)
    return f"{_INTRODUCTION}\n{body}\n\n{_END.format(orders=orders)}"
