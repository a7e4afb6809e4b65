"""Sentences per second and joules of a finished model."""
