"""How fast the server without JAX answers."""
