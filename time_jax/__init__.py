"""time_jax: distil a big text encoder into a tiny monolingual one, in JAX."""

from time_jax import former_paths

former_paths.register()
