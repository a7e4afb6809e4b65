"""Evaluates encoders: tasks to fine-tune them on, and official scores."""
