"""Attention relations (MiniLMv2): the loss that time_jax minimises."""
