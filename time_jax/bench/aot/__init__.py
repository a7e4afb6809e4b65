"""`bench aot`: the cost of a step on devices that are not here."""
