"""Random projections, the loss of a batch as a step takes it, comparisons."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from time_jax.core.arrays import Qkv
from time_jax.relations.loss import count_documents, relation_sums

# Several documents, a full row, an empty one, holes.
PACKED = np.array(
  [
    [1, 1, 1, 2, 2, 2, 2, 3, 3, 0, 0, 0],
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [0, 1, 1, 2, 0, 2, 2, 2, 2, 2, 2, 2],
  ]
)
ALL = {"qq": 1.0, "kk": 0.5, "vv": 2.0, "qk": 0.3, "vq": 1.5}


def random_qkv(seed, batch, length, width, scale=1.0):
  keys = jax.random.split(jax.random.key(seed), 3)
  return Qkv(
    *(scale * jax.random.normal(k, (batch, length, width)) for k in keys)
  )


def random_segments(seed, batch, length):
  """Two documents with holes in each but the last, which is empty."""
  random = np.random.default_rng(seed)
  segments = np.sort(random.integers(0, 3, (batch, length)), axis=1)
  segments[:, length // 2 : length // 2 + 2] = 0
  segments[1::2] = segments[1::2, ::-1]
  segments[-1] *= batch == 1
  return jnp.asarray(segments)


def loss_of(student, teacher, segments, weights, num_heads, implementation):
  """The mean over documents, and the parts that the relations have in it."""
  sums = relation_sums(
    teacher,
    student,
    segments,
    num_heads=num_heads,
    relations=dict.fromkeys(weights, 1.0),  # told by name; weighed here
    implementation=implementation,
  )
  documents = jnp.maximum(count_documents(segments), 1).astype(jnp.float32)
  parts = {name: total / documents for name, total in sums.items()}
  loss = jnp.sum(jnp.stack([weights[n] * parts[n] for n in parts]))
  return loss, parts


@functools.partial(jax.jit, static_argnames=("num_heads", "implementation"))
def value_and_grad(
  student, teacher, segments, weights, num_heads, implementation
):
  """((loss, parts), gradient by the student), compiled once a shape."""
  return jax.value_and_grad(loss_of, has_aux=True)(
    student, teacher, segments, weights, num_heads, implementation
  )


def assert_close(found, expected, *, value=1e-5, gradient=1e-4):
  """Values relatively, gradients relatively to their largest."""
  (loss, parts), grads = found
  (wanted, wanted_parts), wanted_grads = expected
  np.testing.assert_allclose(loss, wanted, rtol=value)
  for name in parts:
    np.testing.assert_allclose(parts[name], wanted_parts[name], rtol=value)
  for a, b in zip(
    jax.tree.leaves(grads), jax.tree.leaves(wanted_grads), strict=True
  ):
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    bound = gradient * np.abs(b).max()
    np.testing.assert_allclose(a, b, atol=bound, rtol=0)


def assert_close_in_norm(found, expected, bound):
  """Gradients relatively to their size, whose errors may not add up."""
  for a, b in zip(
    *(jax.tree.leaves(x[1]) for x in (found, expected)), strict=True
  ):
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    assert np.linalg.norm(a - b) <= bound * np.linalg.norm(b)
