"""What the benchmarks share, and those of a step and of the data."""
