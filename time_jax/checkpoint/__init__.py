"""Saving and restoring a training state, and detecting a damaged one."""
