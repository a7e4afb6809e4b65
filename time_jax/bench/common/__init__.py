"""`bench step` and `bench data`, and what all benchmarks share."""
