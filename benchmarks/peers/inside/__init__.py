"""Programs that run in the engines' own processes."""
