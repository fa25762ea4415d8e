"""Use cases: admission, life cycle, rounds, settlement, outbox."""
