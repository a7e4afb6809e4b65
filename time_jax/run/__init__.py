"""When it happens: a run from its recipe to its last checkpoint."""
