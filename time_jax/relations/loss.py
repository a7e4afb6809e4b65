"""From the projections of two layers to the relation loss of a batch."""

import functools
import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from time_jax.core.arrays import Ids, Qkv
from time_jax.core.errors import UserError
from time_jax.relations import (
  custom_vjp,
  dense,
  one_pass,
  pallas_gpu,
  pallas_tpu,
)


def _auto(
  teacher: custom_vjp.Operands,
  student: custom_vjp.Operands,
  segment_ids: Ids,
  query_weights: Float[Array, "B T"],
  *,
  num_heads: int,
) -> tuple[Float[Array, " B"], custom_vjp.Operands]:
  """The kernel of the platform that the program is compiled for, if it fits.

  Which platform that is, tracing need not know: a program for TPUs may be
  compiled where there are none.
  """
  kernels = {}
  if pallas_tpu.fits(teacher, student, num_heads):
    kernels["tpu"] = functools.partial(pallas_tpu.sweep, num_heads=num_heads)
  if pallas_gpu.fits(teacher, student, num_heads):
    kernels["cuda"] = functools.partial(pallas_gpu.sweep, num_heads=num_heads)
  return lax.platform_dependent(
    teacher,
    student,
    segment_ids,
    query_weights,
    default=functools.partial(one_pass.sweep, num_heads=num_heads),
    **kernels,
  )


def _forced(
  teacher: custom_vjp.Operands,
  student: custom_vjp.Operands,
  segment_ids: Ids,
  query_weights: Float[Array, "B T"],
  *,
  num_heads: int,
  kernel: custom_vjp.Sweep,
  platform: str,
) -> tuple[Float[Array, " B"], custom_vjp.Operands]:
  """One kernel; on other platforms than its own interpreted, as in tests."""
  run = functools.partial(kernel, num_heads=num_heads)
  return lax.platform_dependent(
    teacher,
    student,
    segment_ids,
    query_weights,
    default=functools.partial(run, interpret=True),
    **{platform: run},
  )


_SWEEPS: dict[str, custom_vjp.Sweep] = {
  "auto": _auto,
  "one_pass": one_pass.sweep,
  "pallas_tpu": functools.partial(
    _forced, kernel=pallas_tpu.sweep, platform="tpu"
  ),
  "pallas_gpu": functools.partial(
    _forced, kernel=pallas_gpu.sweep, platform="cuda"
  ),
}
IMPLEMENTATIONS = {"dense": dense.relation_kl} | {
  name: functools.partial(custom_vjp.relation_kl, sweep=function)
  for name, function in _SWEEPS.items()
}
# What runs a kernel at its speed, as JAX names it.
PLATFORMS = {"pallas_tpu": "tpu", "pallas_gpu": "gpu"}
_PROJECTIONS = {"q": "query", "k": "key", "v": "value"}


def relation_sums(
  teacher: Qkv,
  student: Qkv,
  segment_ids: Ids,
  *,
  num_heads: int,
  relations: Mapping[str, float],
  implementation: str = "auto",
) -> dict[str, Float[Array, ""]]:
  """Relation KL summed over the documents of a batch, one number a relation.

  A document counts 1/(R n) times the KL summed over its R heads and n tokens
  (MiniLMv2, equation 5). Divide by the number of documents of the *global*
  batch (`count_documents`) to get the published mean; the split is what makes
  the value independent of micro-batches, devices and packing.

  Args:
    teacher: projections of the teacher's distilled layer; constants.
    student: projections of the student's last layer.
    segment_ids: 0 for padding, else the document's number in its row.
    num_heads: R; `check_heads` says whether it fits.
    relations: names of the relations, such as "qq", "kk", "vv" or "qk", with
      their weights. The weights are not applied here.
    implementation: a key of `IMPLEMENTATIONS`.

  Returns:
    Relation name -> sum over documents, float32.
  """
  relation_kl = IMPLEMENTATIONS[implementation]
  weights = _query_weights(segment_ids, student.query.dtype) / num_heads
  return {
    name: relation_kl(
      _pair(teacher, name),
      _pair(student, name),
      segment_ids,
      weights,
      num_heads=num_heads,
    )
    for name in relations
  }


def count_documents(segment_ids: Ids) -> Int[Array, ""]:
  """Number of non-empty documents: rows number theirs 1, 2, ... in order."""
  return jnp.sum(jnp.max(segment_ids, axis=1))


def check_relations(
  relations: Mapping[str, float],
  widths: Mapping[str, int],
  implementation: str,
) -> None:
  """Raises UserError unless the relations can be computed.

  Args:
    relations: relation name -> weight.
    widths: of the teacher's "query", "key" and "value".
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
    if len(name) != 2 or set(name) - set(_PROJECTIONS):
      raise UserError(
        f"relation {name!r} is unknown; expected two letters of q, k and v, "
        "such as 'qq' or 'qk'."
      )
    x, y = (widths[_PROJECTIONS[letter]] for letter in name)
    if x != y:
      raise UserError(
        f"relation {name!r} is not defined for this teacher: its projections "
        f"are {x} and {y} wide; expected equal widths; set "
        f"relations.weights.{name} to 0."
      )


def check_platform(implementation: str, platform: str) -> None:
  """Raises UserError for a kernel of other devices than those of a run.

  Args:
    implementation: a key of `IMPLEMENTATIONS`.
    platform: of the devices, as JAX names it.
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
  """Every R that divides all widths."""
  common = math.gcd(*widths)
  return [r for r in range(1, common + 1) if common % r == 0]


def _pair(qkv: Qkv, name: str) -> tuple[Array, Array]:
  x, y = (getattr(qkv, _PROJECTIONS[letter]) for letter in name)
  return x, y


def _query_weights(segment_ids: Ids, dtype: jnp.dtype) -> Float[Array, "B T"]:
  """1 / (length of the token's document); 0 for padding."""
  longest = segment_ids.shape[1]
  lengths = jax.vmap(lambda row: jnp.bincount(row, length=longest + 1))(
    segment_ids
  )
  length_BT = jnp.take_along_axis(lengths, segment_ids, axis=1)
  wide = jnp.promote_types(dtype, jnp.float32)
  return jnp.where(segment_ids > 0, 1 / length_BT, 0).astype(wide)
