"""How much of a text stays the same with fewer tokens."""
