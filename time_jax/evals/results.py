"""The result files of `finetune`, read without JAX."""

SCORES = "scores.json"
SCHEMA = "time_jax.finetune/1"
