"""Text encoders in Flax linen, one family a file."""
