"""Privacy arithmetic and the ledger: plan, price, filter, entries."""
