"""Privacy budget gateway: client library and public vocabulary."""
