"""The owner's rules: what Rego is asked and how its answer is read."""
