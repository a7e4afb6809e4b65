"""What the TPU and the GPU kernel share."""

import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

# Softmax to base 2, as the hardware has it; the factor joins that of 1/sqrt(C).
LOG2_E = math.log2(math.e)

Ref = Any  # a Pallas reference to memory


def dot(a: Array, b: Array, contract_a: int, contract_b: int) -> Array:
  """Multiplies two matrices: bfloat16 as it is, float32 exactly, into float32.

  Args:
    a: a matrix.
    b: a matrix of the same dtype.
    contract_a: dimension of a that is summed over.
    contract_b: dimension of b that is summed over.
  """
  # Given in both cases: jax_default_matmul_precision does not apply in kernels.
  narrow = a.dtype == jnp.bfloat16
  precision = lax.Precision.DEFAULT if narrow else lax.Precision.HIGHEST
  return lax.dot_general(
    a,
    b,
    (((contract_a,), (contract_b,)), ((), ())),
    precision=precision,
    preferred_element_type=jnp.promote_types(a.dtype, jnp.float32),
  )
