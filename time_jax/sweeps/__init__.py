"""Grids of configurations: what they are, how they run, what comes of them."""
