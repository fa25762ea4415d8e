"""Runs approved jobs: a trusted coordinator and a sandboxed trainer."""
