"""Things without a business word: database, clock, ids, log."""
