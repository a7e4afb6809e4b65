"""Shapes by name and by size."""

import pytest

from time_jax.bench.common.random_shapes import shape
from time_jax.core.errors import UserError


def test_a_shape_is_named_or_spelled_out():
  found = shape("random:2x16x2", 153)
  assert (found.num_layers, found.hidden_size, found.num_heads) == (2, 16, 2)
  assert (found.intermediate_size, found.vocab_size) == (64, 153)
  assert shape("random:4x384", 153) == shape("random:xs", 153)
  with pytest.raises(UserError, match="random:4 is unknown; known: m, s, xs"):
    shape("random:4", 153)
