"""time_jax: distil a big text encoder into a tiny monolingual one, in JAX."""
