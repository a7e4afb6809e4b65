"""Saving and restoring a training state, and telling a damaged one."""
