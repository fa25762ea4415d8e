"""Operator commands, registered into `privacy-gateway`."""
