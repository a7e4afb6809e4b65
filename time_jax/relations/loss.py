"""From the projections of two layers to the relation loss of a batch."""

import functools
import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from time_jax.core.arrays import PROJECTIONS, Ids, Qkv
from time_jax.core.errors import UserError
from time_jax.relations import (
  custom_vjp,
  dense,
  one_pass,
  pallas_gpu,
  pallas_tpu,
)
from time_jax.relations.custom_vjp import Inputs, KlAndGrad


def _auto(inputs: Inputs, *, num_heads: int) -> KlAndGrad:
  """Takes the kernel of the platform that the program is compiled for.

  Where it does not fit, or on other platforms, that is `one_pass`. Tracing need
  not know the platform: a program for TPUs may be compiled where there are
  none.
  """
  kernels = {"tpu": pallas_tpu, "cuda": pallas_gpu}
  return lax.platform_dependent(
    inputs,
    default=functools.partial(one_pass.kl_and_grad, num_heads=num_heads),
    **{
      platform: functools.partial(kernel.kl_and_grad, num_heads=num_heads)
      for platform, kernel in kernels.items()
      if kernel.fits(inputs, num_heads)
    },
  )


def _forced(
  inputs: Inputs,
  *,
  num_heads: int,
  kernel: custom_vjp.Implementation,
  platform: str,
) -> KlAndGrad:
  """Takes one kernel; on platforms not its own interpreted, as in tests."""
  run = functools.partial(kernel, num_heads=num_heads)
  return lax.platform_dependent(
    inputs,
    default=functools.partial(run, interpret=True),
    **{platform: run},
  )


_FAST: dict[str, custom_vjp.Implementation] = {
  "auto": _auto,
  "one_pass": one_pass.kl_and_grad,
  "pallas_tpu": functools.partial(
    _forced, kernel=pallas_tpu.kl_and_grad, platform="tpu"
  ),
  "pallas_gpu": functools.partial(
    _forced, kernel=pallas_gpu.kl_and_grad, platform="cuda"
  ),
}
IMPLEMENTATIONS = {"dense": dense.relation_kl} | {
  name: functools.partial(custom_vjp.relation_kl, implementation=function)
  for name, function in _FAST.items()
}
# Platforms on which the kernels are compiled, as JAX names them.
PLATFORMS = {"pallas_tpu": "tpu", "pallas_gpu": "gpu"}


def relation_sums(
  teacher: Qkv,
  student: Qkv,
  segment_ids: Ids,
  *,
  num_heads: int,
  relations: Mapping[str, float],
  implementation: str = "auto",
) -> dict[str, Float[Array, ""]]:
  r"""Computes the loss of every relation, summed over the documents of a batch.

  .. math::
    \mathrm{sum}_{xy} = \sum_{d} \frac{1}{R\, n_d} \sum_{r=1}^{R}
      \sum_{i=1}^{n_d} \mathrm{KL}\left(
        A^T_{xy,d,r,i} \,\middle\|\, A^S_{xy,d,r,i} \right)

  with n_d the tokens of document d, and A as in `dense.relation_kl`. Divided
  by the number of documents of the *global* batch (`count_documents`) this is
  the published mean over documents; the division is left to the caller so that
  the value does not depend on micro-batches, devices and packing.

  Args:
    teacher: projections of the teacher's distilled layer; constants.
    student: projections of the student's last layer.
    segment_ids: number of each token's document in its row; 0 for padding.
    num_heads: R; `check_heads` says whether it fits.
    relations: names of the relations, such as "qq", "kk", "vv" or "qk", with
      their weights. The weights are not applied here.
    implementation: a key of `IMPLEMENTATIONS`.

  Returns:
    Relation name -> sum over documents; float32, or float64 for such
    projections.

  Examples:
    >>> import jax
    >>> from time_jax.core.arrays import Qkv
    >>> from time_jax.relations import loss
    >>> def projections(seed, width):
    ...   keys = jax.random.split(jax.random.key(seed), 3)
    ...   return Qkv(*(jax.random.normal(key, (1, 6, width)) for key in keys))
    >>> segment_ids = jax.numpy.array([[1, 1, 1, 2, 2, 0]])
    >>> def mean(student):
    ...   sums = loss.relation_sums(
    ...     projections(0, 16),
    ...     student,
    ...     segment_ids,
    ...     num_heads=4,
    ...     relations={"qq": 1.0, "kk": 1.0, "vv": 1.0},
    ...   )
    ...   return sum(sums.values()) / loss.count_documents(segment_ids)
    >>> value, grads = jax.value_and_grad(mean)(projections(1, 8))
    >>> bool(value > 0), grads.query.shape
    (True, (1, 6, 8))
    >>> bool(abs(mean(projections(0, 16))) < 1e-6)  # The teacher itself.
    True

  References:
    Wang et al., MiniLMv2, arXiv 2012.15828, section 3.1, equations 5 to 7.
  """
  relation_kl = IMPLEMENTATIONS[implementation]
  weights = token_weights(segment_ids, student.query.dtype) / num_heads

  def pair(qkv: Qkv, name: str) -> tuple[Array, Array]:
    x, y = (getattr(qkv, PROJECTIONS[letter]) for letter in name)
    return x, y

  return {
    name: relation_kl(
      pair(teacher, name),
      pair(student, name),
      segment_ids,
      weights,
      num_heads=num_heads,
    )
    for name in relations
  }


def count_documents(segment_ids: Ids) -> Int[Array, ""]:
  """Counts the non-empty documents; those of a row are numbered 1, 2, ..."""
  return jnp.sum(jnp.max(segment_ids, axis=1))


def check_relations(
  relations: Mapping[str, float],
  widths: Mapping[str, int],
  implementation: str,
) -> None:
  """Raises UserError unless the relations can be computed.

  Args:
    relations: relation name -> weight.
    widths: widths of the teacher's "query", "key" and "value".
    implementation: a key of `IMPLEMENTATIONS`.
  """
  if implementation not in IMPLEMENTATIONS:
    raise UserError(
      f"relations.implementation={implementation!r} is unknown; known: "
      f"{', '.join(sorted(IMPLEMENTATIONS))}."
    )
  if implementation == "pallas_gpu" and not pallas_gpu.available():
    raise UserError(
      "relations.implementation='pallas_gpu' cannot be: this version of JAX "
      f"({jax.__version__}) has no Triton; expected 'auto'."
    )
  if not relations:
    raise UserError("relations.weights are all 0; nothing would be learnt.")
  for name in relations:
    if len(name) != 2 or set(name) - set(PROJECTIONS):
      raise UserError(
        f"relation {name!r} is unknown; expected two letters of q, k and v, "
        "such as 'qq' or 'qk'."
      )
    x, y = (widths[PROJECTIONS[letter]] for letter in name)
    if x != y:
      raise UserError(
        f"relation {name!r} is not defined for this teacher: its projections "
        f"are {x} and {y} wide; expected equal widths; set "
        f"relations.weights.{name} to 0."
      )


def check_platform(implementation: str, platform: str) -> None:
  """Raises UserError for a kernel that is not for the devices of a run.

  Args:
    implementation: a key of `IMPLEMENTATIONS`.
    platform: platform of the devices, as JAX names it.
  """
  needed = PLATFORMS.get(implementation, platform)
  if needed != platform:
    raise UserError(
      f"relations.implementation={implementation!r} needs a {needed.upper()}; "
      f"JAX found {platform.upper()}; expected 'auto', which takes the fastest "
      "there is."
    )


def check_heads(num_heads: int, widths: Mapping[str, int]) -> None:
  """Raises UserError unless R divides every width.

  Args:
    num_heads: R.
    widths: what is split into R heads -> its width, for the message.
  """
  wrong = [f"{k}={w}" for k, w in widths.items() if w % max(num_heads, 1)]
  if wrong or num_heads < 1:
    raise UserError(
      f"relations.num_heads={num_heads} must divide every width: "
      f"{', '.join(wrong)}. Divisors of all: {possible_heads(widths.values())}."
    )


def possible_heads(widths: Iterable[int]) -> list[int]:
  """Returns every R that divides all widths."""
  common = math.gcd(*widths)
  return [r for r in range(1, common + 1) if common % r == 0]


def token_weights(segment_ids: Ids, dtype: jnp.dtype) -> Float[Array, "B T"]:
  """Returns 1 / (length of the token's document); 0 for padding.

  Args:
    segment_ids: number of each token's document in its row; 0 for padding.
    dtype: that of what is weighted; the result has at least float32.
  """
  longest = segment_ids.shape[1]
  lengths = jax.vmap(lambda row: jnp.bincount(row, length=longest + 1))(
    segment_ids
  )
  length_BT = jnp.take_along_axis(lengths, segment_ids, axis=1)
  wide = jnp.promote_types(dtype, jnp.float32)
  return jnp.where(segment_ids > 0, 1 / length_BT, 0).astype(wide)
