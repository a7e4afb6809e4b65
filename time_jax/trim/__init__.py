"""Making a teacher smaller by keeping only the tokens of one language."""
