"""Pipelines of spaCy from raw text on: ours, and those of others."""
